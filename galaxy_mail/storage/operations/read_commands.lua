#!lua flags=no-writes
--[[ read_commands: the next stream entries, bounded by number and by bytes (XREAD alone bounds the number only).

  KEYS[1]  stream   stream  the intake
  ARGV[1]  after      entry id
  ARGV[2]  max_entries
  ARGV[3]  max_bytes  stop after the entry that reaches this size, even if it is the first

  Returns  {first_id, {{entry_id, {name, value, ...}}, ...}}  the entries as XREAD returns them
           first_id: of the stream's oldest entry, "" if there is none; if it is larger than `after`, the entries in
           between may have been trimmed unread
  Twice: the same, unless the stream changed.
]]
local stream = KEYS[1]
local after, max_entries, max_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local oldest = redis.call("XRANGE", stream, "-", "+", "COUNT", 1)[1]
local entries, read = {}, 0
-- One at a time: an entry's size is unknown before it is read, and many entries of 10 MiB may follow small ones.
while #entries < max_entries and read < max_bytes do
  local entry = redis.call("XRANGE", stream, "(" .. after, "+", "COUNT", 1)[1]
  if not entry then break end
  entries[#entries + 1] = entry
  for _, part in ipairs(entry[2]) do read = read + #part end
  after = entry[1]
end
return {oldest and oldest[1] or "", entries}

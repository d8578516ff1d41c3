#!lua flags=no-writes
--[[ read_commands: the next stream entries, bounded by number and by bytes (XREAD alone bounds the number only).

  KEYS[1]  stream   stream  the intake
  ARGV[1]  after    entry id
  ARGV[2]  count    entries at most
  ARGV[3]  bytes    stop once the fields read so far have as many; a first larger entry is given all the same

  Returns  {first_id, {{entry_id, {name, value, ...}}, ...}}  the entries as XREAD gives them
           first_id: of the oldest entry that the stream has, "" where it has none; one behind `after` says that
           everything up to there may have been trimmed unread
  Twice: the same, unless the stream changed.
]]
local stream = KEYS[1]
local after, count, bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local oldest = redis.call("XRANGE", stream, "-", "+", "COUNT", 1)[1]
local entries, read, step = {}, 0, 1
while #entries < count and read < bytes do
  local batch = redis.call("XREAD", "COUNT", math.min(step, count - #entries), "STREAMS", stream, after)
  if not batch or not batch[1] then break end
  for _, entry in ipairs(batch[1][2]) do
    entries[#entries + 1] = entry
    for _, part in ipairs(entry[2]) do read = read + #part end
    after = entry[1]
  end
  -- Grows with what was small so far: a sudden run of large entries is overshot by one step at most.
  step = math.min(step * 2, math.max(1, math.floor(bytes / (read / #entries + 1) / 4)))
end
return {oldest and oldest[1] or "", entries}

#!lua flags=allow-oom
--[[ skip: move the offset past a stream entry that repeats an accepted request.

  KEYS[1]  offset       string  the id of the last consumed stream entry
  KEYS[2]  consumed     string  number of consumed entries
  ARGV[1]  entry_id
  ARGV[2]  predecessor  the offset after which this entry is next; "" at the stream's beginning

  Returns  {1}          skipped
           {5, offset}  the entry is not next; nothing was written
  Twice: {5}.
]]
local offset, consumed = KEYS[1], KEYS[2]
local entry_id, predecessor = ARGV[1], ARGV[2]

local reached = redis.call("GET", offset) or ""
if reached ~= predecessor then return {5, reached} end
redis.call("SET", offset, entry_id)
redis.call("INCR", consumed)
return {1}

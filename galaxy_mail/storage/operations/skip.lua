#!lua flags=allow-oom
--[[ skip: move the offset past a stream entry that was recorded as a duplicate: nothing else is to be done for it.

  KEYS[1]  offset       string  the last stream entry that needs no more work
  KEYS[2]  consumed     string  entries that the offset has passed
  ARGV[1]  entry_id
  ARGV[2]  predecessor  the offset at which this entry is next; "" for none yet

  Returns  {1}          passed
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

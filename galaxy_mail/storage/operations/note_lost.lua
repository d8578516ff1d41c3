#!lua flags=allow-oom
--[[ note_lost: count stream entries that were trimmed or deleted before they were read, once.

  KEYS[1]  consumed  string  number of consumed entries
  KEYS[2]  meta      hash    stream_lost, stream_lost_at_ms
  ARGV[1]  seen      the value of `consumed` that the caller read
  ARGV[2]  lost      how many are missing; less than 0: the stream was created anew, and counting starts again
  ARGV[3]  now_ms

  Returns  {1}  counted
           {0}  stale: `consumed` has changed; nothing was written
  Twice: {0}, nothing is written again.
]]
local consumed, meta = KEYS[1], KEYS[2]
local seen, lost, now_ms = ARGV[1], ARGV[2], ARGV[3]

if (redis.call("GET", consumed) or "0") ~= seen then return {0} end
redis.call("INCRBY", consumed, lost)
if tonumber(lost) < 0 then return {1} end
redis.call("HINCRBY", meta, "stream_lost", lost)
redis.call("HSET", meta, "stream_lost_at_ms", now_ms)
return {1}

#!lua flags=allow-oom
--[[ repair: add a delivery to an index or remove it, unless its record has changed.

  KEYS[1]  delivery        string
  KEYS[2]  repaired_index  zset    delivery_id -> score
  ARGV[1]  delivery_id
  ARGV[2]  delivery record  as the caller read it; "" if there is none
  ARGV[3]  score            "" to remove it

  Returns  {1}  repaired
           {0}  stale: the record has changed; nothing was written
  Twice: {1}, the same is written again.
]]
local delivery, repaired_index = KEYS[1], KEYS[2]
local delivery_id, delivery_record, score = ARGV[1], ARGV[2], ARGV[3]

if (redis.call("GET", delivery) or "") ~= delivery_record then return {0} end
if score == "" then
  redis.call("ZREM", repaired_index, delivery_id)
else
  redis.call("ZADD", repaired_index, score, delivery_id)
end
return {1}

#!lua flags=allow-oom
--[[ reschedule: repair the schedule of a delivery: add it, or remove it and its claim.

  KEYS[1]  delivery  string
  KEYS[2]  claims    hash    delivery_id -> fencing token, while claimed
  KEYS[3]  lane      zset    delivery_id -> may be claimed at, ms (the delivery's lane)
  KEYS[4]  other     zset    the other lane
  ARGV[1]  delivery_id
  ARGV[2]  delivery record  as the caller read it; "" if there is none
  ARGV[3]  due_ms           schedule it for then, unless a lane has it and it is not quarantined there;
                            "": remove it

  Returns  {1}  repaired
           {0}  stale: the record has changed, or there was nothing to repair; nothing was written
  Twice: {0}, nothing is written again.
]]
local delivery, claims, lane, other = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local delivery_id, delivery_record, due_ms = ARGV[1], ARGV[2], ARGV[3]

if (redis.call("GET", delivery) or "") ~= delivery_record then return {0} end
local scheduled = redis.call("ZSCORE", lane, delivery_id) or redis.call("ZSCORE", other, delivery_id)
if due_ms == "" then
  if not scheduled and redis.call("HEXISTS", claims, delivery_id) == 0 then return {0} end
  redis.call("ZREM", lane, delivery_id)
  redis.call("ZREM", other, delivery_id)
  redis.call("HDEL", claims, delivery_id)
  return {1}
end
if scheduled and tonumber(scheduled) < math.huge then return {0} end
redis.call("HDEL", claims, delivery_id)
redis.call("ZADD", lane, due_ms, delivery_id)
return {1}

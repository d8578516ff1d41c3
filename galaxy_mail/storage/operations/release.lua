#!lua flags=allow-oom
--[[ release: give a claimed attempt back to the schedule; its number and its due time don't change.

  KEYS[1]  claims       hash    delivery_id -> fencing token, while claimed
  KEYS[2]  schedule     zset    delivery_id -> may be claimed at, ms (the delivery's lane)
  KEYS[3]  delivery     string
  KEYS[4]  attempt      string
  KEYS[5]  status_from  zset    delivery_id -> created at, ms
  KEYS[6]  status_to    zset    likewise
  ARGV[1]  delivery_id
  ARGV[2]  token            the caller's fencing token
  ARGV[3]  due_ms
  ARGV[4]  delivery record  "" if the attempt had not begun: the records stay as they are
  ARGV[5]  attempt record   "" likewise
  ARGV[6]  created_at_ms

  Returns  {1}  released
           {0}  stale: we no longer hold the claim; nothing changed
  Twice: {0}, nothing is written again.
]]
local claims, schedule, delivery, attempt, status_from, status_to = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local delivery_id, token, due_ms = ARGV[1], ARGV[2], ARGV[3]
local delivery_record, attempt_record, created_at_ms = ARGV[4], ARGV[5], ARGV[6]

if redis.call("HGET", claims, delivery_id) ~= token then return {0} end
redis.call("HDEL", claims, delivery_id)
redis.call("ZADD", schedule, due_ms, delivery_id)
if delivery_record ~= "" then
  redis.call("SET", delivery, delivery_record)
  redis.call("SET", attempt, attempt_record)
  redis.call("ZREM", status_from, delivery_id)
  redis.call("ZADD", status_to, created_at_ms, delivery_id)
end
return {1}

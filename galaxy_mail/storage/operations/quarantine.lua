#!lua flags=allow-oom
--[[ quarantine: keep a claimed id with an unreadable record in the schedule, but never due.

  KEYS[1]  claims    hash  delivery_id -> fencing token, while claimed
  KEYS[2]  schedule  zset  delivery_id -> may be claimed at, ms
  ARGV[1]  delivery_id
  ARGV[2]  token     the caller's fencing token

  Returns  {1}  quarantined; `verify-store` lists it
           {0}  stale: we no longer hold the claim; nothing changed
  Twice: {0}, nothing is written again.
]]
local claims, schedule = KEYS[1], KEYS[2]
local delivery_id, token = ARGV[1], ARGV[2]

if redis.call("HGET", claims, delivery_id) ~= token then return {0} end
redis.call("HDEL", claims, delivery_id)
redis.call("ZADD", schedule, "+inf", delivery_id)
return {1}

#!lua flags=allow-oom
--[[ renew: extend a claim.

  KEYS[1]  claims    hash  delivery_id -> fencing token, while claimed
  KEYS[2]  schedule  zset  delivery_id -> may be claimed at, ms (the delivery's lane)
  ARGV[1]  delivery_id
  ARGV[2]  token    the caller's fencing token
  ARGV[3]  now_ms   "" for the server's clock
  ARGV[4]  ttl_ms   the claim expires after this time

  Returns  {1}  renewed; also if it had expired and nobody took it
           {0}  stale: we no longer hold the claim; nothing changed
  Twice: {1}, it expires a little later.
]]
local claims, schedule = KEYS[1], KEYS[2]
local delivery_id, token, ttl_ms = ARGV[1], ARGV[2], tonumber(ARGV[4])
local now_ms = tonumber(ARGV[3])
if not now_ms then
  local clock = redis.call("TIME")
  now_ms = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
end

if redis.call("HGET", claims, delivery_id) ~= token then return {0} end
redis.call("ZADD", schedule, now_ms + ttl_ms, delivery_id)
return {1}

#!lua flags=allow-oom
--[[ begin: store the rendered content and start an attempt; afterwards the provider may be called. Renews the claim.

  KEYS[1]  claims        hash    delivery_id -> fencing token, while claimed
  KEYS[2]  schedule      zset    delivery_id -> may be claimed at, ms (the delivery's lane)
  KEYS[3]  suppressions  hash    address or @domain -> JSON
  KEYS[4]  delivery      string
  KEYS[5]  payload       hash    content, rendered
  KEYS[6]  attempt       string
  KEYS[7]  status_from   zset    delivery_id -> created at, ms
  KEYS[8]  status_to     zset    likewise
  ARGV[1]  delivery_id
  ARGV[2]  token            the caller's fencing token
  ARGV[3]  now_ms           "" for the server's clock
  ARGV[4]  ttl_ms           the claim expires after this time
  ARGV[5]  delivery record
  ARGV[6]  attempt record
  ARGV[7]  rendered         "" if it was stored before
  ARGV[8]  created_at_ms
  ARGV[9...] possible suppression entries of its recipients; none to skip the check

  Returns  {1}                      begun
           {0}                      stale: we no longer hold the claim; nothing changed
           {4, false or JSON, ...}  recipients are suppressed now, in the order of ARGV[9...]; nothing changed
           {6}                      the claim has expired, and nobody took it yet; nothing changed
  Twice: {1}, the same is written again, even if recipients were suppressed in between.
]]
local claims, schedule, suppressions, delivery, payload, attempt = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local status_from, status_to = KEYS[7], KEYS[8]
local delivery_id, token, ttl_ms = ARGV[1], ARGV[2], tonumber(ARGV[4])
local delivery_record, attempt_record, rendered, created_at_ms = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local FIRST_SUPPRESSION = 9
local now_ms = tonumber(ARGV[3])
if not now_ms then
  local clock = redis.call("TIME")
  now_ms = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
end

if redis.call("HGET", claims, delivery_id) ~= token then return {0} end
local expiry_ms = redis.call("ZSCORE", schedule, delivery_id)
if not expiry_ms or tonumber(expiry_ms) <= now_ms then return {6} end
if #ARGV >= FIRST_SUPPRESSION then
  local found = redis.call("HMGET", suppressions, unpack(ARGV, FIRST_SUPPRESSION))
  for i = 1, #found do
    -- Not if an earlier call has already begun this attempt: then it also mails recipients suppressed since.
    if found[i] and redis.call("GET", delivery) ~= delivery_record then return {4, unpack(found)} end
  end
end

redis.call("SET", delivery, delivery_record)
redis.call("SET", attempt, attempt_record)
if rendered ~= "" then redis.call("HSETNX", payload, "rendered", rendered) end
redis.call("ZREM", status_from, delivery_id)
redis.call("ZADD", status_to, created_at_ms, delivery_id)
redis.call("ZADD", schedule, now_ms + ttl_ms, delivery_id)
return {1}

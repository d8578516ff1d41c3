#!lua flags=allow-oom
--[[ finish: record how an attempt ended and what follows, and drop the claim.

  KEYS[1]  claims            hash    delivery_id -> fencing token, while claimed
  KEYS[2]  schedule          zset    delivery_id -> may be claimed at, ms (the delivery's lane)
  KEYS[3]  losses            hash    delivery_id -> lost owners so far
  KEYS[4]  delivery          string
  KEYS[5]  payload           hash    content, rendered
  KEYS[6]  attempt           string  the one that ended
  KEYS[7]  next_attempt      string
  KEYS[8]  status_from       zset    delivery_id -> created at, ms
  KEYS[9]  status_to         zset    likewise
  KEYS[10] dead_letter       string
  KEYS[11] dead_letters      zset    delivery_id -> died at, ms
  KEYS[12] expires           zset    delivery_id -> purged at, ms
  KEYS[13...] earlier attempts  string
  ARGV[1]  delivery_id
  ARGV[2]  token                 the caller's fencing token
  ARGV[3]  delivery record
  ARGV[4]  attempt record
  ARGV[5]  next attempt record   "" if the delivery is terminal
  ARGV[6]  due_ms                of the next attempt, or ""
  ARGV[7]  dead letter record    "" unless the delivery becomes a dead letter
  ARGV[8]  created_at_ms
  ARGV[9]  finished_at_ms
  ARGV[10] purge_at_ms          "" unless terminal
  ARGV[11] delivery_backstop_ms  "" unless terminal; delivery and payload expire then
  ARGV[12] attempts_backstop_ms  "" unless terminal; attempts and dead letter expire then

  Returns  {1}  recorded, now or by an earlier equal call
           {0}  stale: we no longer hold the claim; nothing changed
  Twice: {1}, nothing is written again.
]]
local claims, schedule, losses, delivery, payload = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local attempt, next_attempt, status_from, status_to = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local dead_letter, dead_letters, expires = KEYS[10], KEYS[11], KEYS[12]
local FIRST_EARLIER_ATTEMPT = 13
local delivery_id, token = ARGV[1], ARGV[2]
local delivery_record, attempt_record, next_attempt_record, due_ms = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local dead_letter_record, created_at_ms, finished_at_ms, purge_at_ms = ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local delivery_backstop_ms, attempts_backstop_ms = ARGV[11], ARGV[12]

if redis.call("HGET", claims, delivery_id) ~= token then
  if redis.call("GET", attempt) == attempt_record then return {1} end
  return {0}
end

redis.call("HDEL", claims, delivery_id)
if status_from ~= status_to then
  redis.call("ZREM", status_from, delivery_id)
  redis.call("ZADD", status_to, created_at_ms, delivery_id)
end
if next_attempt_record ~= "" then
  redis.call("SET", delivery, delivery_record)
  redis.call("SET", attempt, attempt_record)
  redis.call("SET", next_attempt, next_attempt_record)
  redis.call("ZADD", schedule, due_ms, delivery_id)
  return {1}
end
redis.call("ZREM", schedule, delivery_id)
redis.call("HDEL", losses, delivery_id)
redis.call("SET", delivery, delivery_record, "PXAT", delivery_backstop_ms)
redis.call("PEXPIREAT", payload, delivery_backstop_ms)
redis.call("SET", attempt, attempt_record, "PXAT", attempts_backstop_ms)
for i = FIRST_EARLIER_ATTEMPT, #KEYS do
  redis.call("PEXPIREAT", KEYS[i], attempts_backstop_ms)
end
if dead_letter_record ~= "" then
  redis.call("SET", dead_letter, dead_letter_record, "PXAT", attempts_backstop_ms)
  redis.call("ZADD", dead_letters, finished_at_ms, delivery_id)
end
redis.call("ZADD", expires, purge_at_ms, delivery_id)
return {1}

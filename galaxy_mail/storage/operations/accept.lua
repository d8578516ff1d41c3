#!lua
--[[ accept: store one request completely or not at all. Resends are accepted by this script, too.

  KEYS[1]  idempotency   string  the record of (source, idempotency key)
  KEYS[2]  delivery      string
  KEYS[3]  payload       hash    content, rendered
  KEYS[4]  attempt       string  attempt 1
  KEYS[5]  schedule      zset    delivery_id -> may be claimed at, ms (the delivery's lane)
  KEYS[6]  suppressions  hash    address or @domain -> JSON
  KEYS[7]  expires       zset    delivery_id -> purged at, ms
  KEYS[8]  offset        string  the id of the last consumed stream entry
  KEYS[9]  consumed      string  number of consumed entries
  KEYS[10...] indexes    zset    delivery_id -> created at, ms
  ARGV[1]  delivery_id
  ARGV[2]  idempotency record
  ARGV[3]  idempotency_expires_ms  its key expires then, as a backstop
  ARGV[4]  delivery record
  ARGV[5]  content
  ARGV[6]  rendered         "" if nothing is rendered yet
  ARGV[7]  attempt record   "" if every recipient is suppressed: no attempt, not scheduled
  ARGV[8]  created_at_ms    it is due then, too
  ARGV[9]  purge_at_ms     "" unless it is terminal from the start
  ARGV[10] backstop_ms      "" likewise; its keys expire then
  ARGV[11] replaced         an outdated idempotency record that may be overwritten, or ""
  ARGV[12] touch            "1": a replay writes, too, so that waiting for the disk covers the first write
  ARGV[13] entry_id         of the stream; "" for REST
  ARGV[14] predecessor      the offset after which this entry is next; "" at the stream's beginning
  ARGV[15...] possible suppression entries of its recipients; none if the caller has checked them

  Returns  {1}                          accepted
           {2, idempotency record}      the same (source, key) was accepted before; for a stream entry with the same
                                        fingerprint the caller then moves the offset with `skip`
           {3}                          a delivery with this id exists, or attempts of a purged one
           {4, false or JSON, ...}      recipients are suppressed, in the order of ARGV[15...]; nothing was written
           {5, offset}                  the entry is not next; nothing was written
  Twice: {2} with the record of the first call; nothing is written again (except `touch`); from a stream {5}.
]]
local idempotency, delivery, payload, attempt, schedule = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local suppressions, expires, offset, consumed = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local FIRST_INDEX = 10
local delivery_id, idempotency_record, idempotency_expires_ms = ARGV[1], ARGV[2], ARGV[3]
local delivery_record, content, rendered, attempt_record = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local created_at_ms, purge_at_ms, backstop_ms = ARGV[8], ARGV[9], ARGV[10]
local replaced, touch, entry_id, predecessor = ARGV[11], ARGV[12], ARGV[13], ARGV[14]
local FIRST_SUPPRESSION = 15

if entry_id ~= "" then
  local reached = redis.call("GET", offset) or ""
  if reached ~= predecessor then return {5, reached} end
end
local known = redis.call("GET", idempotency)
if known and known ~= replaced then
  if touch == "1" then redis.call("SET", idempotency, known, "KEEPTTL") end
  return {2, known}
end
if redis.call("EXISTS", delivery, attempt) > 0 then return {3} end
if #ARGV >= FIRST_SUPPRESSION then
  local found = redis.call("HMGET", suppressions, unpack(ARGV, FIRST_SUPPRESSION))
  for i = 1, #found do
    if found[i] then return {4, unpack(found)} end
  end
end

redis.call("SET", idempotency, idempotency_record, "PXAT", idempotency_expires_ms)
if rendered == "" then
  redis.call("HSET", payload, "content", content)
else
  redis.call("HSET", payload, "content", content, "rendered", rendered)
end
if attempt_record == "" then
  redis.call("SET", delivery, delivery_record, "PXAT", backstop_ms)
  redis.call("PEXPIREAT", payload, backstop_ms)
  redis.call("ZADD", expires, purge_at_ms, delivery_id)
else
  redis.call("SET", delivery, delivery_record)
  redis.call("SET", attempt, attempt_record)
  redis.call("ZADD", schedule, created_at_ms, delivery_id)
end
for i = FIRST_INDEX, #KEYS do
  redis.call("ZADD", KEYS[i], created_at_ms, delivery_id)
end
if entry_id ~= "" then
  redis.call("SET", offset, entry_id)
  redis.call("INCR", consumed)
end
return {1}

#!lua flags=allow-oom
--[[ purge: remove an expired delivery, its content and its index entries; its attempts stay.

  KEYS[1]  delivery   string
  KEYS[2]  payload    hash
  KEYS[3]  children   zset    its resends
  KEYS[4]  expires    zset    delivery_id -> purged at, ms
  KEYS[5...] indexes  zset    delivery_id -> created at, ms
  ARGV[1]  delivery_id
  ARGV[2]  delivery record       as the caller read it
  ARGV[3]  attempts_purge_at_ms  when its attempts and its dead letter are purged

  Returns  {1}  purged
           {0}  stale: the record has changed; nothing was written
  Twice: {0}, nothing is written again.
]]
local delivery, payload, children, expires = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local FIRST_INDEX = 5
local delivery_id, delivery_record, attempts_purge_at_ms = ARGV[1], ARGV[2], ARGV[3]

if redis.call("GET", delivery) ~= delivery_record then return {0} end
redis.call("DEL", delivery, payload, children)
for i = FIRST_INDEX, #KEYS do redis.call("ZREM", KEYS[i], delivery_id) end
redis.call("ZADD", expires, attempts_purge_at_ms, delivery_id)
return {1}

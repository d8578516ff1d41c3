#!lua flags=allow-oom
--[[ identify: read the store's id and its counters. The first process gives a new store its id.

  KEYS[1]  meta      hash    id, created_at_ms
  KEYS[2]  sequence  string  the counter of claims
  KEYS[3]  offset    string  the id of the last consumed stream entry
  ARGV[1]  id             for a store without one; "" gives it none
  ARGV[2]  created_at_ms

  Returns  {id or "", sequence, offset or ""}
  Twice: the same.
]]
local meta, sequence, offset = KEYS[1], KEYS[2], KEYS[3]
local id, created_at_ms = ARGV[1], ARGV[2]

if id ~= "" and redis.call("HSETNX", meta, "id", id) == 1 then
  redis.call("HSET", meta, "created_at_ms", created_at_ms)
end
return {redis.call("HGET", meta, "id") or "", redis.call("GET", sequence) or "0", redis.call("GET", offset) or ""}

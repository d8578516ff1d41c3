#!lua
--[[ record_malformed: record a stream entry that can't be accepted, and move the offset past it.

  KEYS[1]  malformed        string  the record
  KEYS[2]  malformed_index  zset    entry_id -> recorded at, ms
  KEYS[3]  offset           string  the id of the last consumed stream entry
  KEYS[4]  consumed         string  number of consumed entries
  ARGV[1]  record
  ARGV[2]  recorded_at_ms
  ARGV[3]  backstop_ms  its key expires then
  ARGV[4]  entry_id
  ARGV[5]  predecessor  the offset after which this entry is next; "" at the stream's beginning

  Returns  {1}          recorded
           {5, offset}  the entry is not next; nothing was written
  Twice: {5}.
]]
local malformed, malformed_index, offset, consumed = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local record, recorded_at_ms, backstop_ms = ARGV[1], ARGV[2], ARGV[3]
local entry_id, predecessor = ARGV[4], ARGV[5]

local reached = redis.call("GET", offset) or ""
if reached ~= predecessor then return {5, reached} end
redis.call("SET", malformed, record, "PXAT", backstop_ms)
redis.call("ZADD", malformed_index, recorded_at_ms, entry_id)
redis.call("SET", offset, entry_id)
redis.call("INCR", consumed)
return {1}

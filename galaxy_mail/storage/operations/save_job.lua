#!lua
--[[ save_job: write a resend job, unless it has changed since the caller read it.

  KEYS[1]  job         string  the record
  KEYS[2]  unfinished  zset    job id -> created at, ms
  ARGV[1]  job_id
  ARGV[2]  expected    the record as the caller read it; "" if there must be none yet
  ARGV[3]  record      the new record
  ARGV[4]  created_at_ms
  ARGV[5]  purge_at_ms  "" while it runs; else its key expires then, and it leaves the index

  Returns  {1}          written
           {2, record}  another record exists ("": none does); nothing was written
  Twice: {1}, nothing is written again.
]]
local job, unfinished = KEYS[1], KEYS[2]
local job_id, expected, record = ARGV[1], ARGV[2], ARGV[3]
local created_at_ms, purge_at_ms = ARGV[4], ARGV[5]

local current = redis.call("GET", job) or ""
if current == record then return {1} end
if current ~= expected then return {2, current} end
if purge_at_ms == "" then
  redis.call("SET", job, record)
  redis.call("ZADD", unfinished, created_at_ms, job_id)
else
  redis.call("SET", job, record, "PXAT", purge_at_ms)
  redis.call("ZREM", unfinished, job_id)
end
return {1}

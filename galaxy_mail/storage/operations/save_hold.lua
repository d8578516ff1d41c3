#!lua flags=allow-oom
--[[ save_hold: write or remove a hold, unless it has changed since the caller read it.

  KEYS[1]  holds     hash  cause and scope -> record
  ARGV[1]  field
  ARGV[2]  expected  the record as the caller read it; "" where there must be none yet
  ARGV[3]  record    what is to stand there; "" to remove it

  Returns  {1}  it stands there now, or is gone
           {0}  stale: another record stands there; nothing changed
  Twice: {1}, nothing is written again.
]]
local holds = KEYS[1]
local field, expected, record = ARGV[1], ARGV[2], ARGV[3]

local current = redis.call("HGET", holds, field) or ""
if current == record then return {1} end
if current ~= expected then return {0} end
if record == "" then
  redis.call("HDEL", holds, field)
else
  redis.call("HSET", holds, field, record)
end
return {1}

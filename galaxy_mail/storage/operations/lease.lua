#!lua flags=allow-oom
--[[ lease: take, keep or release the right to read the stream or to probe a relay. Correctness never depends on it.

  KEYS[1]  lease    string  "<owner> <expiry ms>"
  ARGV[1]  owner
  ARGV[2]  now_ms   "" for the server's clock
  ARGV[3]  ttl_ms   0: release it

  Returns  {1}  held (or released)
           {0}  another owner has it
  Twice: {1}.
]]
local lease = KEYS[1]
local owner, ttl_ms = ARGV[1], tonumber(ARGV[3])
local now_ms = tonumber(ARGV[2])
if not now_ms then
  local clock = redis.call("TIME")
  now_ms = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
end

local holder, expiry_ms = string.match(redis.call("GET", lease) or "", "^(%S+) (%d+)$")
if holder and holder ~= owner and tonumber(expiry_ms) > now_ms then return {0} end
if ttl_ms > 0 then
  redis.call("SET", lease, owner .. " " .. string.format("%.0f", now_ms + ttl_ms))
elseif holder == owner then
  redis.call("DEL", lease)
end
return {1}

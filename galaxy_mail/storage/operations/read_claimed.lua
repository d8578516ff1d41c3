#!lua flags=no-writes
--[[ read_claimed: the records of claimed deliveries, all in one go; large content is left for the slot that sends it.

  KEYS[1...]  for each of n deliveries its record (string), behind them for each its payload (hash: content, rendered)
  ARGV[1]  content_max_bytes  larger content is not given

  Returns  for each delivery {record, content_bytes, content, rendered}
           record, content, rendered: "" where there is none; content_bytes: 0 where there is none
  Twice: the same, unless something changed.
]]
local records_and_payloads, content_max_bytes = KEYS, tonumber(ARGV[1])
local n = #records_and_payloads / 2

local found = {}
for i = 1, n do
  local record, payload = records_and_payloads[i], records_and_payloads[n + i]
  local size = redis.call("HSTRLEN", payload, "content")
  local content, rendered = false, false
  if size <= content_max_bytes then
    content, rendered = unpack(redis.call("HMGET", payload, "content", "rendered"))
  end
  found[i] = {redis.call("GET", record) or "", size, content or "", rendered or ""}
end
return found

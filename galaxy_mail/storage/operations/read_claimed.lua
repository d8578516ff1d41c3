#!lua flags=no-writes
--[[ read_claimed: the records of claimed deliveries at once; the slot that sends a delivery reads large content itself.

  KEYS[1...]  the records (string) of n deliveries, then their n payloads (hash: content, rendered)
  ARGV[1]  content_max_bytes  larger content is not returned

  Returns  for each delivery {record, content_bytes, content, rendered}
           record, content, rendered: "" if there is none; content_bytes: 0 if there is none
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

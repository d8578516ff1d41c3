#!lua flags=allow-oom
--[[ claim: make this process the owner of due attempts for a limited time, and report whose owner was lost.

  The schedule's score is the time from which a delivery may be claimed: its due time or, while claimed, the expiry of its
  claim. So a delivery becomes due again if its owner is lost. A claimed delivery that is due has lost its owner.

  KEYS[1]  claims    hash    delivery_id -> fencing token, while claimed
  KEYS[2]  sequence  string  counter, part of every token
  KEYS[3]  losses    hash    delivery_id -> lost owners so far
  KEYS[4]  priority  zset    delivery_id -> may be claimed at, ms
  KEYS[5]  normal    zset    likewise
  ARGV[1]  now_ms           "" for the server's clock
  ARGV[2]  ttl_ms           a claim expires after this time
  ARGV[3]  priority_places  claim at most this many of the priority lane
  ARGV[4]  normal_places    claim at most this many of the normal lane
  ARGV[5]  lost_places      first claim at most this many with a lost owner, found in `claims`, so that a backlog doesn't
                            hide them; 0: not in this call

  Returns  {now_ms, next_due_ms, priority_left, normal_left, {id, token, lane, losses}, ...}
           next_due_ms: when the next delivery may be claimed, -1 for none
           *_left: "1" if more of this lane is due
           lane: "p" or "n";  losses: how many owners this delivery has lost
  Twice: the second call claims others; the claims of the first one expire and are taken over.
]]
local claims, sequence, losses, priority, normal = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local ttl_ms = tonumber(ARGV[2])
local places = {[priority] = tonumber(ARGV[3]), [normal] = tonumber(ARGV[4])}
local lost_places = tonumber(ARGV[5])
local letters = {[priority] = "p", [normal] = "n"}
local clock = redis.call("TIME")
local time_us = clock[1] .. string.format("%06d", tonumber(clock[2]))
local now_ms = tonumber(ARGV[1]) or tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local taken = {}
local function take(lane, delivery_id)
  local lost = "0"
  if redis.call("HEXISTS", claims, delivery_id) == 1 then
    lost = tostring(redis.call("HINCRBY", losses, delivery_id, 1))
  end
  local token = time_us .. "-" .. string.format("%.0f", redis.call("INCR", sequence))
  redis.call("HSET", claims, delivery_id, token)
  redis.call("ZADD", lane, now_ms + ttl_ms, delivery_id)
  taken[#taken + 1] = {delivery_id, token, letters[lane], lost}
end

if lost_places > 0 then
  for _, delivery_id in ipairs(redis.call("HKEYS", claims)) do
    if lost_places == 0 then break end
    for _, lane in ipairs({priority, normal}) do
      local claimable_ms = redis.call("ZSCORE", lane, delivery_id)
      if claimable_ms and tonumber(claimable_ms) <= now_ms then
        take(lane, delivery_id)
        lost_places = lost_places - 1
      end
    end
  end
end
local left = {}
for i, lane in ipairs({priority, normal}) do
  local due = {}
  if places[lane] > 0 then
    due = redis.call("ZRANGEBYSCORE", lane, "-inf", now_ms, "LIMIT", 0, places[lane])
    for _, delivery_id in ipairs(due) do take(lane, delivery_id) end
  end
  left[i] = #due == places[lane] and "1" or "0"
end
local next_due_ms = -1
for i, lane in ipairs({priority, normal}) do
  local first = redis.call("ZRANGE", lane, 0, 0, "WITHSCORES")[2]
  first = first and tonumber(first)
  if first and first < math.huge and (next_due_ms < 0 or first < next_due_ms) then next_due_ms = first end
  if not first or first > now_ms then left[i] = "0" end
end
return {string.format("%.0f", now_ms), string.format("%.0f", next_due_ms), left[1], left[2], unpack(taken)}

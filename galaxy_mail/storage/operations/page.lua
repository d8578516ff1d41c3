#!lua flags=no-writes
--[[ page: the next ids that are in all given indexes, ordered by score and then by id.

  KEYS[1...] indexes  zset  id -> score, the same score in all indexes
  ARGV[1]  order         "newest" for scores and ids from high to low, "oldest" for the reverse
  ARGV[2]  limit         return at most this many ids
  ARGV[3]  scan          check at most this many candidates
  ARGV[4]  from_score    the lowest score, "-inf" for any
  ARGV[5]  to_score      the highest score, "+inf" for any
  ARGV[6]  after_score   score of the candidate after which the page begins, "" for the first page
  ARGV[7]  after_id      its id; it need not exist any more

  Returns  {ended, score, id, found id, its score, ...}
           ended: 1 if no candidate is left
           score, id: of the last checked candidate, found or not; "" if there was none
  Twice: the same, unless the indexes changed.

  Candidates come from the index with the fewest ids in range, and are looked up in the others. So a page costs log(n)
  plus at most `scan` candidates, whatever the filters are and however many scores are equal.
]]
local order, limit, scan = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local from_score, to_score, after_score, after_id = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local BATCH = 100

local newest = order == "newest"
local RANGE = newest and "ZREVRANGE" or "ZRANGE"

local drive, fewest
for i = 1, #KEYS do
  local count = redis.call("ZCOUNT", KEYS[i], from_score, to_score)
  if not fewest or count < fewest then drive, fewest = i, count end
end
if fewest == 0 then return {1, "", ""} end
local index = KEYS[drive]

-- Whether id `a` is before id `b` by bytes; Lua's own comparison uses the server's locale.
local function lower(a, b)
  for i = 1, math.min(#a, #b) do
    local left, right = a:byte(i), b:byte(i)
    if left ~= right then return left < right end
  end
  return #a < #b
end

-- How many elements are before those with this score, and how many have this score.
local function block(score)
  local before
  if newest then
    before = redis.call("ZCOUNT", index, "(" .. score, "+inf")
  else
    before = redis.call("ZCOUNT", index, "-inf", "(" .. score)
  end
  return before, redis.call("ZCOUNT", index, score, score)
end

local first
if newest then
  first = redis.call("ZCOUNT", index, "(" .. to_score, "+inf")
else
  first = redis.call("ZCOUNT", index, "-inf", "(" .. from_score)
end
local stop = first + fewest -- ranks in range: first, ..., stop - 1

local rank = first
if after_score ~= "" then
  local before, equal = block(after_score)
  local low, high = before, before + equal -- the first one after `after` is in low..high
  while low < high do
    local middle = math.floor((low + high) / 2)
    local id = redis.call(RANGE, index, middle, middle)[1]
    local is_behind
    if newest then is_behind = lower(id, after_id) else is_behind = lower(after_id, id) end
    if is_behind then high = middle else low = middle + 1 end
  end
  rank = math.max(rank, low)
end

local found, examined, last_id = {}, 0, nil
while rank < stop and #found < limit and examined < scan do
  local size = math.min(BATCH, stop - rank, scan - examined)
  local ids = redis.call(RANGE, index, rank, rank + size - 1)
  local elsewhere = {}
  for i = 1, #KEYS do
    if i ~= drive then elsewhere[#elsewhere + 1] = redis.call("ZMSCORE", KEYS[i], unpack(ids)) end
  end
  for i = 1, #ids do
    rank, examined, last_id = rank + 1, examined + 1, ids[i]
    local in_all = true
    for j = 1, #elsewhere do in_all = in_all and elsewhere[j][i] end
    if in_all then
      found[#found + 1] = last_id
      if #found == limit then break end
    end
  end
end
if not last_id then return {1, "", ""} end

-- Only now: the scores of rejected candidates are not needed.
local answer = {rank >= stop and 1 or 0, redis.call("ZSCORE", index, last_id), last_id}
if #found > 0 then
  local scores = redis.call("ZMSCORE", index, unpack(found))
  for i = 1, #found do
    answer[#answer + 1] = found[i]
    answer[#answer + 1] = scores[i]
  end
end
return answer

#!lua flags=no-writes
--[[ stream_state: the stream, its offset and its count as they stand at one moment.

  KEYS[1]  stream    stream  the intake
  KEYS[2]  offset    string  the last stream entry that needs no more work
  KEYS[3]  consumed  string  entries that the offset has passed

  Returns  {offset or "", consumed or "0"}           there is no stream
           {offset or "", consumed or "0", XINFO STREAM}
  Twice: the same, unless something changed.
]]
local stream, offset, consumed = KEYS[1], KEYS[2], KEYS[3]

local state = {redis.call("GET", offset) or "", redis.call("GET", consumed) or "0"}
if redis.call("EXISTS", stream) == 1 then state[3] = redis.call("XINFO", "STREAM", stream) end
return state

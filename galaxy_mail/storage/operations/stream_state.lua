#!lua flags=no-writes
--[[ stream_state: the stream, its offset and its count at one moment.

  KEYS[1]  stream    stream  the intake
  KEYS[2]  offset    string  the id of the last consumed stream entry
  KEYS[3]  consumed  string  number of consumed entries

  Returns  {offset or "", consumed or "0"}  there is no stream
           {offset or "", consumed or "0", length, entries_added, last_id, first_id or ""}
  Twice: the same, unless something changed.
]]
local stream, offset, consumed = KEYS[1], KEYS[2], KEYS[3]

local state = {redis.call("GET", offset) or "", redis.call("GET", consumed) or "0"}
if redis.call("EXISTS", stream) == 0 then return state end
local facts = {}
local info = redis.call("XINFO", "STREAM", stream)
for i = 1, #info, 2 do facts[info[i]] = info[i + 1] end
local first = facts["first-entry"] -- the complete entry, up to 10 MiB; only its id is needed
return {
  state[1], state[2], facts["length"], facts["entries-added"], facts["last-generated-id"], first and first[1] or "",
}

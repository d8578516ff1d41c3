"""The verbs of the store: one Lua script and its typed call for each."""

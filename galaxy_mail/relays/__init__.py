"""Which relay takes mail now, and how much of it."""

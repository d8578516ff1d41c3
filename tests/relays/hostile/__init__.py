"""A relay of our own that misbehaves: one misbehaviour a file, each a `Server` that does one thing wrong."""

"""The way to Redis: the gateway, its two links, requests, errors, start-up checks, durability, clock."""

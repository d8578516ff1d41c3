"""Relays: what this process sees of them, and what follows for the mail."""

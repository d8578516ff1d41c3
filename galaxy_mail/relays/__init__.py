"""Relays: which of them may be used now."""

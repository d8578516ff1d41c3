"""What a delivery is and what may happen to it. Never: I/O, a clock, randomness, settings."""

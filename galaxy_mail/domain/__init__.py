"""What a delivery is and what may happen to it."""

"""What the service costs and how fast it is, beside what others would use."""

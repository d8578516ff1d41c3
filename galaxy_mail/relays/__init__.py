"""Whether the relay may be given mail, and how much: breaker, pace, sameness, holds."""

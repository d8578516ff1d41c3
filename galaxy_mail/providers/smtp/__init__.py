"""The way out through an SMTP relay."""

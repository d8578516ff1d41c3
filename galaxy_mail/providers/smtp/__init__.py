"""Sends mail through an SMTP relay."""

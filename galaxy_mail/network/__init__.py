"""Sockets as trio streams."""

"""The published contracts held to themselves and to the code. Never: a server of their own."""

"""The published contracts held to themselves and to the code."""

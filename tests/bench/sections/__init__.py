"""What is measured, one file a subject: each has one `measure` from settings to figures."""

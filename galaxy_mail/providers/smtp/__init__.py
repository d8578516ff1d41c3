"""The way out through an SMTP relay. Never: a decision about retries, a thread, a log line with content."""

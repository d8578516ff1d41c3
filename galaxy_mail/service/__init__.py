"""The service: the only place that knows every part."""

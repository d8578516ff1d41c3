"""Loads and checks a folder of templates and renders mail from them."""

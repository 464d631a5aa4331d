"""Judges: what a response is, by one method per file."""

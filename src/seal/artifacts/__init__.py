"""Nouns: what travels between the stages, and how it lies on disk."""

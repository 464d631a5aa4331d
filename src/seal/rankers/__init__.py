"""Rankers: one method of scoring a pool per file."""

"""Tasks: one evaluation set and what is measured on it per file."""

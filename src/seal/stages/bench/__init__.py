"""The benchmark: which rankings are made, what they come to, and how that is shown."""

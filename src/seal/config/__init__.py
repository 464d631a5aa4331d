"""The configuration: one tree of settings, from YAML and the command line and back."""

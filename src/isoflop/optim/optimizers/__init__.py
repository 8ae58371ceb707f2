"""Training rules: one part a file."""

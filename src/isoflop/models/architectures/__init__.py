"""Models: whole architectures."""

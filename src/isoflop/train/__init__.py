"""The one training loop. It knows parts only through the registry and their contracts, never a method by name."""

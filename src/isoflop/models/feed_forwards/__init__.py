"""Feed-forwards: what is computed at each position."""

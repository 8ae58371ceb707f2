"""Studies: tuning alike, running, and the multiplier at equal quality."""

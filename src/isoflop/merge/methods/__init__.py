"""Merge methods, one a file: a pure function on tensors and the part through which a recipe names it."""

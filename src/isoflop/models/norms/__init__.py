"""Norms: what keeps the vectors that a layer reads, and those before the head, at one scale."""

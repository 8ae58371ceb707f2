"""Scaling laws: one form a file."""

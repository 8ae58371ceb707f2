"""Mixers: what moves information between positions."""

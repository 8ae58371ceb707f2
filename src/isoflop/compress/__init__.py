"""Compression: other forms of a weight's product."""

"""Arrangements: where a block's norms stand, and what its mixer and feed-forward read."""

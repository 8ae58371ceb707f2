"""Positions: what tells a query how far away a key is."""

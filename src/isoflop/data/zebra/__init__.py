"""Zebra puzzles: clues, and the search for all grids that they allow."""

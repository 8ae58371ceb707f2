"""Tasks: puzzles whose answers can be checked, one file each."""

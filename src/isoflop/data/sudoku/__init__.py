"""Sudoku of several sizes: its rules, solving, grading by human strategies, and making puzzles.

A grid is a list of n^2 digits from 0 to n, row by row; 0 is an empty cell.
"""

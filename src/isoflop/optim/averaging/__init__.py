"""Averages of the weights, for evaluation; one part a file."""

"""Pipelines: stages of training and merging that build on each other, measured on the same texts."""

"""Objectives: the losses that a recipe can name."""

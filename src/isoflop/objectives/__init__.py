"""Losses of a model on a batch, and the chunked cross-entropy that they share."""

"""Scorers of documents, one file each: what one is worth to a model that is to be trained, and what that cost."""

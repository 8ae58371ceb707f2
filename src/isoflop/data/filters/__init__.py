"""Filters of documents, one file a family: published rules with their published thresholds."""

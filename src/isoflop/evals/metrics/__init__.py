"""Slot `metric`: one file a metric."""

"""From a model to samples."""

"""The data engine: documents in files of any kind are cleaned, deduplicated, scored and chosen, a piece at a time."""

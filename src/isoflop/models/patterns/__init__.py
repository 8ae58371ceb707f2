"""Parts of the slot pattern: who sees whom."""

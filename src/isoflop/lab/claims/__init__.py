"""Claims: what others published, what is asked of it here, and what came out."""

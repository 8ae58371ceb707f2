"""Data: sources of text, tokenizers, token shards on disk, and the deterministic loader over them."""

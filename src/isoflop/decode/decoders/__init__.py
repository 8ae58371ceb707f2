"""Decoders: rules that choose the next tokens."""

"""GGUF files, which llama.cpp and what is built on it load: written from a directory in Hugging Face's layout."""

from __future__ import annotations

from .write import TYPES, write_gguf

__all__ = ["TYPES", "write_gguf"]

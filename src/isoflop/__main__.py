"""``python -m isoflop`` is the command line."""

from .cli.main import run

run()

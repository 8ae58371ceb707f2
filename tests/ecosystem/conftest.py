"""These tests need the libraries of others (extra ``ecosystem``); ``make test-ecosystem`` has them in an environment of
its own and demands them, elsewhere the tests are skipped."""

from __future__ import annotations

import importlib
import os
import warnings

import pytest

LIBRARIES = (
    "transformers",
    "peft",
    "lm_eval",
    "tensorboard",
    "wandb",
    "trackio",
    "openai",
    "compressed_tensors",
    "torchao",
)


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("ISOFLOP_ECOSYSTEM"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs, of each other
            for name in LIBRARIES:
                importlib.import_module(name)  # missing ones are an error here, not a reason to skip

"""The public name of the error family."""

from .core.errors import (
    BudgetError,
    DataError,
    IsoflopError,
    NumericsError,
    RecipeError,
    Stopped,
    StorageError,
    UsageError,
)

__all__ = [
    "BudgetError",
    "DataError",
    "IsoflopError",
    "NumericsError",
    "RecipeError",
    "Stopped",
    "StorageError",
    "UsageError",
]

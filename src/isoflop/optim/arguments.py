"""Whether hyper-parameters have names and values of the kinds that a rule's signature says; asked at construction."""

from __future__ import annotations

import contextlib
import functools
import inspect
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from torch import Tensor

from ..core.errors import nearest
from .state import OptimizerError

_EVERYWHERE = {"params", "param_names", "role", "name", "initial_lr", "lr_scale"}
"""Keys that a group may hold beside its rule's: torch's, ours, and those of schedulers."""
_INSTEAD = {
    "maximize": "minimise the negative of what is to be maximised",
    "foreach": "leave it out: a rule here works through a group in its one, fastest way",
    "fused": "leave it out: .compile() makes one pass of the rules that have one",
    "capturable": "leave it out: steps are not captured in CUDA graphs",
    "differentiable": "leave it out: no gradient flows through a step",
    "amsgrad": "leave it out: the second moment follows its average",
}
"""Arguments of torch's own rules that no rule here has, and what to do without them."""


def check_names(rule: str, given: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    """OptimizerError for an argument or a key of a group that the rule does not have.

    Args:
        rule: its class's name.
        given: what was given, by name.
        known: its hyper-parameters.
        where: for the error.
    """
    for name, value in given.items():
        if name in known or name in _EVERYWHERE or (name == "weight_decay" and not value):  # no decay is no decay
            continue
        refuse_name(rule, name, known, where)


def refuse_name(rule: str, name: str, known: Mapping[str, Any], where: str) -> NoReturn:
    """OptimizerError: no hyper-parameter of the rule has that name."""
    fix = _INSTEAD.get(name) or nearest(name, [key for key in known if key != "params"])
    raise OptimizerError(f"{rule} has no hyper-parameter {name!r}", where=where, fix=fix)


def check_arguments(cls: type, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """OptimizerError for what ``cls(*args, **kwargs)`` cannot mean; a wrong number of arguments is left to Python."""
    signature = inspect.signature(cls)
    if not any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        for name in kwargs:
            if name not in signature.parameters:
                refuse_name(cls.__name__, name, signature.parameters, "arguments")
    with contextlib.suppress(TypeError):
        bound = signature.bind_partial(*args, **kwargs).arguments
        check_kinds(cls, bound, "arguments")


def check_kinds(cls: type, group: Mapping[str, Any], where: str) -> None:
    """OptimizerError for a value that is not of its hyper-parameter's kind: a text, a tuple of another length, None."""
    for name, (kind, optional) in kinds(cls).items():
        value = group.get(name)
        if name in group and not (value is None and optional) and not _is(kind, value):
            what = f"{name} must be {_WORDS.get(kind) or f'{kind} numbers'}{' or None' if optional else ''}"
            raise OptimizerError(f"{what}, got {value!r}", where=where)


_WORDS: dict[Any, str] = {"float": "a number", "int": "a whole number", "bool": "True or False"}


@functools.cache
def kinds(cls: type) -> dict[str, tuple[str | int, bool]]:
    """By hyper-parameter, what it takes: "float", "int", "bool", or the length of a tuple of numbers; and whether None.

    Read off the annotations of the class's ``__init__``, and of the fields of a named tuple that is one's default.
    Hyper-parameters of other kinds are left to the class.
    """
    annotations: dict[str, Any] = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if hasattr(parameter.default, "_asdict"):
            annotations |= type(parameter.default).__annotations__
        else:
            annotations[name] = parameter.annotation
    found = {name: _kind(annotation) for name, annotation in annotations.items()}
    return {name: kind for name, kind in found.items() if kind is not None}


def _kind(annotation: Any) -> tuple[str | int, bool] | None:
    text = getattr(annotation, "__forward_arg__", annotation)
    text = text if isinstance(text, str) else getattr(text, "__name__", "") if type(text) is type else str(text)
    pieces = [piece.strip() for piece in text.split("|")]
    plain = [piece for piece in pieces if piece != "None"]
    optional = len(plain) < len(pieces)
    if len(plain) != 1:
        return None
    if plain[0] in _WORDS:
        return plain[0], optional
    if plain[0].startswith("tuple[") and set(plain[0][6:-1].replace(" ", "").split(",")) == {"float"}:
        return plain[0].count("float"), optional
    return None


def _is(kind: str | int, value: Any) -> bool:
    if isinstance(kind, int):
        return isinstance(value, tuple | list) and len(value) == kind and all(_is("float", entry) for entry in value)
    if kind == "bool":
        return isinstance(value, bool) or type(value).__name__ == "bool_"  # numpy's
    if isinstance(value, Tensor):
        return value.numel() == 1
    return isinstance(value, numbers.Integral if kind == "int" else numbers.Real) and not isinstance(value, bool)

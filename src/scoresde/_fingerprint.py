"""A short name for what something is made of: equal for equal parts, in any process and on any day."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

LEFT_OUT = {"training", "seen"}
"""Of a module: what it is doing, not what it is."""


def fingerprint(*parts: Any, weights: bool = True) -> str:
    """Sixteen letters that differ where tensors, numbers, texts, classes, or the code of functions differ.

    So does the code of classes, if they are the user's own.

    Args:
        parts: objects, nested in any way. weights: whether the numbers in modules count, or their shapes only.
    """
    digest = hashlib.sha256()
    for piece in _pieces(parts, {}, weights):
        digest.update(piece)
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def _pieces(value: Any, seen: dict[int, Any], weights: bool) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        if weights:
            yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        yield repr(value).encode()
        return
    if id(value) in seen:
        yield b"again"
        return
    seen[id(value)] = value  # kept, so that no other object takes its number
    if isinstance(value, Mapping):
        inside: Any = sorted(value.items(), key=lambda item: str(item[0]))
    elif isinstance(value, (list, tuple, set, frozenset, range)):
        inside = list(value)
    else:
        inside = list(_made_of(value, weights))
    for part in inside:
        yield from _pieces(part, seen, weights)


PACKAGES = ("scoresde", "torch", "builtins", "abc", "functools", "collections")
"""Whose classes are told by their names; of a user's own, the code counts too, which may be edited."""


def _is_own(kind: type) -> bool:
    return kind.__module__.partition(".")[0] not in PACKAGES


def _has_code(part: Any) -> bool:
    return isinstance(part, FunctionType) and part.__code__.co_filename != "<string>"  # which dataclasses write


def _made_of(value: Any, weights: bool) -> Iterator[Any]:
    kind = value if isinstance(value, type) else type(value)
    yield f"{kind.__module__}.{kind.__qualname__}"
    yield [part for base in kind.__mro__ if _is_own(base) for part in vars(base).values() if _has_code(part)]
    if isinstance(value, FunctionType):
        yield value.__qualname__
        yield value.__code__.co_code
        consts = [part for part in value.__code__.co_consts if part is not value.__doc__]
        yield [part if not hasattr(part, "co_code") else part.co_code for part in consts]
        yield [*value.__code__.co_names]
        yield value.__defaults__
        yield [cell.cell_contents for cell in value.__closure__ or ()]
    elif isinstance(value, MethodType):
        yield [value.__func__, value.__self__]
    elif isinstance(value, partial):
        yield [value.func, value.args, value.keywords]
    elif isinstance(value, nn.Module):
        yield [(name, part) for name, part in vars(value).items() if not name.startswith("_") and name not in LEFT_OUT]
        yield [*value.named_parameters(recurse=False), *value.named_buffers(recurse=False)]
        yield [*value.named_children()]
    elif is_dataclass(value):
        yield [(field.name, getattr(value, field.name)) for field in fields(value)]
    elif not isinstance(value, type) and hasattr(value, "__dict__"):
        yield [(name, part) for name, part in vars(value).items() if not name.startswith("_")]
    elif not isinstance(value, type):
        yield repr(value)

"""Values by their types: what words and YAML say, as what a function takes."""

from __future__ import annotations

import inspect
from collections import abc
from collections.abc import Iterable
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml

from scoresde.cli.calls import Call, Problem, call_of, checked, hint

MANY = (list, tuple, abc.Sequence, abc.Iterable)


class Word(str):
    """Text from the command line: for what has no type of its own, it is read as YAML."""


def members(kind: Any) -> list[Any]:
    """The types that a type allows, without None; notes of Annotated are left out."""
    if get_origin(kind) is Annotated:
        return members(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [inner for each in get_args(kind) if each is not NoneType for inner in members(each)]
    return [kind]


def notes(kind: Any) -> list[Any]:
    """What is noted by Annotated, anywhere in a type."""
    here = list(get_args(kind)[1:]) if get_origin(kind) is Annotated else []
    return here + [note for each in get_args(kind) if get_origin(each) for note in notes(each)]


def may_be_none(kind: Any) -> bool:
    if get_origin(kind) is Annotated:
        return may_be_none(get_args(kind)[0])
    return kind is NoneType or (get_origin(kind) in (Union, UnionType) and any(map(may_be_none, get_args(kind))))


def is_many(kind: Any) -> bool:
    return get_origin(kind) in MANY or kind in MANY


def wanted(kind: Any) -> tuple[type, int] | None:
    """(class, how many arguments come later) of a type whose values are objects: Process, Callable[[shape], Module]."""
    if get_origin(kind) is abc.Callable and isinstance(get_args(kind)[0], list):
        takes, gives = get_args(kind)
        return (gives, len(takes)) if isinstance(gives, type) and gives.__module__ != "builtins" else None
    plain = inspect.isclass(kind) and kind not in (str, int, float, bool, dict, Path, NoneType, object, *MANY)
    return (kind, 0) if plain and get_origin(kind) is None else None


def read(value: Any, kind: Any, key: str) -> Any:
    """The value that a type wants, objects as checked calls; a `Problem` says what is wrong and what to write."""
    kinds = members(kind)
    if (value is None or (isinstance(value, Word) and value in ("null", "None"))) and (
        may_be_none(kind) or Any in kinds
    ):
        return None
    problems = []
    for each in kinds:
        try:
            return _read(value, each, key)
        except Problem as problem:
            problems.append(problem)
    raise problems[0]


def _read(value: Any, kind: Any, key: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return yaml_of(value, key) if isinstance(value, Word) else value
    if origin is Literal:
        return _one_of(value.name if isinstance(value, Call) and value.bare else value, inner, key)
    if is_many(kind):
        return _many(value, kind, inner, key)
    if origin is dict or kind is dict:
        value = yaml_of(value, key) if isinstance(value, str) else value
        if not isinstance(value, dict):
            raise Problem(key, f"must be a mapping, such as {{n: 100}} or --{key}.n 100, got {value!r}")
        types = inner or (Any, Any)
        return {name: read(item, types[1], f"{key}.{name}") for name, item in value.items()}
    if (found := wanted(kind)) is not None:
        return checked(call_of(value, key), found[0], key, read, found[1])
    if kind in SCALARS:
        return _scalar(value, kind, key)
    raise Problem(key, f"cannot be written as text, only given in Python ({kind})")


def yaml_of(text: str, key: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Problem(key, f"{text!r} is no YAML ({problem_of(error)}); put quotes around text") from error


def problem_of(error: yaml.YAMLError) -> str:
    """What is wrong with YAML and in which line, in one line."""
    mark, what = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}: {what}" if mark else what


def _one_of(value: Any, known: Iterable[Any], key: str) -> Any:
    for each in known:
        if value == each or (isinstance(value, Word) and value == str(each)):
            return each
    names = [str(each) for each in known]
    raise Problem(key, f"unknown {value!r}; known: {', '.join(names)}.{hint(str(value), names)}")


def _many(value: Any, kind: Any, inner: tuple[Any, ...], key: str) -> Any:
    if isinstance(value, str):
        value = yaml_of(value, key) if value.lstrip().startswith("[") else [value]
    elif not isinstance(value, (list, tuple)):
        value = [value]
    if get_origin(kind) is tuple and ... not in inner:
        if len(value) != len(inner):
            raise Problem(key, f"must be {len(inner)} values, got {len(value)}")
        kinds = inner
    else:
        kinds = [inner[0] if inner else Any] * len(value)
    items = [read(item, each, f"{key}[{i}]") for i, (item, each) in enumerate(zip(value, kinds))]
    return tuple(items) if get_origin(kind) is tuple else items


SCALARS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
}


def _scalar(value: Any, kind: Any, key: str) -> Any:
    if isinstance(value, Call) and value.bare:
        value = value.name  # text without quotes in a call, or inf
    if kind is bool and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if (kind is str and isinstance(value, (str, Path))) or (kind is Path and value and isinstance(value, (str, Path))):
        return kind(value)
    try:
        if kind in (int, float) and isinstance(value, (int, float, str)) and not isinstance(value, bool):
            if kind is int and isinstance(value, float):
                raise ValueError
            return kind(value)
    except ValueError:
        pass
    if kind is bool and isinstance(value, bool):
        return value
    raise Problem(key, f"must be {SCALARS[kind]}, got {str(value)!r}")


def plain(value: Any) -> Any:
    """A read value as what YAML can hold, such that `read` gives it again."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return str(value) if isinstance(value, (Call, Path, Word)) else value


def written(values: dict[str, Any]) -> str:
    """Options as the YAML that --config takes."""
    return yaml.safe_dump(plain(values), sort_keys=False, allow_unicode=True, width=10**6)

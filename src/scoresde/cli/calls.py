"""An object as a short call, VP(beta_max=15): read without running it, found by its name, checked, then built."""

from __future__ import annotations

import ast
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from typing import Any, get_type_hints

PLACES = ("scoresde.process", "scoresde.samplers", "scoresde.networks")
"""Where the names without a dot are looked for."""

LITERALS = (bool, int, float, str, type(None))


class Problem(Exception):  # noqa: N818
    """Wrong input: which option, what is wrong, and what to write instead."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}" if key else message)


def hint(name: str, known: Iterable[str]) -> str:
    """The known name that is close to this one, as a question."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


@dataclass
class Call:
    """A name and what it is called with, still as read; `target` is what it names, once it is checked."""

    name: str
    positional: tuple[Any, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)
    target: Callable[..., Any] | None = None
    later: bool = False

    def __str__(self) -> str:
        shown = [_shown(value) for value in self.positional]
        shown += [f"{name}={_shown(value)}" for name, value in self.arguments.items()]
        return f"{self.name}({', '.join(shown)})"

    @property
    def bare(self) -> bool:
        return not self.positional and not self.arguments

    def build(self, key: str) -> Any:
        """The object; or what makes it of further arguments, if those come `later`."""
        assert self.target is not None
        arguments = {name: built(value, f"{key}.{name}") for name, value in self.arguments.items()}
        if self.later:
            return partial(self.target, **arguments)
        try:
            return self.target(**arguments)
        except (ValueError, TypeError) as error:
            if not self.target.__module__.startswith("scoresde."):
                raise  # the user's own code: its traceback says where
            raise Problem(key, " ".join(str(error).split())) from error


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_shown, value))}]"
    return str(value) if isinstance(value, Call) else repr(value)


def built(value: Any, key: str) -> Any:
    """The value with the calls in it built."""
    if isinstance(value, (list, tuple)):
        return type(value)(built(item, f"{key}[{i}]") for i, item in enumerate(value))
    if isinstance(value, dict):
        return {name: built(item, f"{key}.{name}") for name, item in value.items()}
    return value.build(key) if isinstance(value, Call) else value


def call_of(value: Any, key: str) -> Call:
    """The call that is written: "VP", "VP(beta_max=15)", "mine.MyProcess", or {class_path: VP, init_args: {...}}."""
    if isinstance(value, Call):
        return value
    if isinstance(value, Mapping) and set(value) <= {"class_path", "init_args"} and "class_path" in value:
        arguments = value.get("init_args") or {}
        if not isinstance(arguments, Mapping):
            raise Problem(f"{key}.init_args", f"must be a mapping, such as {{beta_max: 15}}, got {arguments!r}")
        return Call(str(value["class_path"]), arguments=dict(arguments))
    try:
        read = _read(ast.parse(value.strip(), mode="eval").body) if isinstance(value, str) else None
    except (SyntaxError, ValueError):
        read = None
    if not isinstance(read, Call):
        raise Problem(key, f"must be a name or a short call, such as VP or 'VP(beta_max=15)', got {value!r}")
    return read


def _read(node: ast.expr) -> Any:
    """Names, calls of names with keywords, and literals; anything else is a ValueError."""
    if isinstance(node, ast.Call):
        if any(word.arg is None for word in node.keywords):
            raise ValueError
        words = {str(word.arg): _read(word.value) for word in node.keywords}
        return Call(_dotted(node.func), tuple(map(_read, node.args)), words)
    if isinstance(node, (ast.Name, ast.Attribute)):
        return Call(_dotted(node))
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_read(item) for item in node.elts]
    return ast.literal_eval(node)


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Name):
        return node.id
    raise ValueError


def known(kind: type, later: int = 0) -> dict[str, Callable[..., Any]]:
    """The built-in objects of a kind by their short names: classes, and functions that say that they return it.

    later: how many arguments they will be given only when they are made: those that begin with a shape.
    """
    found: dict[str, Callable[..., Any]] = {}
    for place in PLACES:
        module = import_module(place)
        for name in module.__all__:
            value = getattr(module, name)
            if makes(value, kind) and not inspect.isabstract(value) and (not later or "shape" in parameters(value)):
                found[name] = value
    return found


def makes(value: Any, kind: type) -> bool:
    """Whether calling it gives an object of a kind, by what it is or says; nothing is called to find out."""
    if inspect.isfunction(value):
        try:
            value = get_type_hints(value).get("return")
        except (NameError, TypeError, AttributeError):
            return False
    return isinstance(value, type) and issubclass(value, kind)


def parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(target).parameters)


def hints(target: Callable[..., Any]) -> dict[str, Any]:
    """The types that a class or a function wants; none where they cannot be told."""
    try:
        return get_type_hints(target.__init__ if isinstance(target, type) else target, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}


def find(name: str, kind: type, key: str, later: int = 0) -> Callable[..., Any]:
    """What a name stands for: built in, or the user's own by its path, seen from the current folder."""
    table = known(kind, later)
    if name in table:
        return table[name]
    path, dot, last = name.rpartition(".")
    if not dot:
        raise Problem(
            key, f"unknown {name!r}; known: {', '.join(table)}, or your own by module.Name.{hint(name, table)}"
        )
    try:
        module = import_module(path)
    except (ImportError, SyntaxError) as error:
        raise Problem(key, f"cannot import {path!r}, seen from {os.getcwd()!r}: {error}") from error
    if not hasattr(module, last):
        raise Problem(key, f"the module {path!r} has no {last!r}.{hint(last, vars(module))}")
    target = getattr(module, last)
    if not makes(target, kind) or inspect.isabstract(target):
        raise Problem(key, f"{name} must be a class below {kind.__name__}, or a function annotated to return one")
    return target


def checked(call: Call, kind: type, key: str, read: Callable[[Any, Any, str], Any], later: int = 0) -> Call:
    """The call with its arguments named, read by their types, and defaults filled in, so that it says it all."""
    target = find(call.name, kind, key, later)
    takes, types = parameters(target), hints(target)
    any_name = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    takes = {name: p for name, p in takes.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if len(takes) < later:
        raise Problem(key, f"{call.name} must take the shape of a sample first")
    takes = dict(list(takes.items())[later:])
    options = f"it takes {', '.join(takes)}" if takes else "it takes none"
    given = dict(zip(takes, call.positional))
    if len(call.positional) > len(takes):
        raise Problem(key, f"{call.name} has too many arguments; {options}")
    for name, value in call.arguments.items():
        if name not in takes and not any_name:
            raise Problem(f"{key}.{name}", f"{call.name} has no such option; {options}.{hint(name, takes)}")
        if name in given:
            raise Problem(f"{key}.{name}", "is given twice")
        given[name] = value
    full = {}
    for name, parameter in {**takes, **dict.fromkeys(given)}.items():
        if name in given:
            full[name] = read(given[name], types.get(name, Any), f"{key}.{name}")
        elif parameter is not None and parameter.default is parameter.empty:
            raise Problem(f"{key}.{name}", f"must be given, as {call.name} has no default for it")
        elif parameter is not None and type(parameter.default) in LITERALS:
            full[name] = parameter.default
    return Call(call.name, arguments=full, target=target, later=bool(later))

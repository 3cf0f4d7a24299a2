"""The options of a command, which are the arguments of a function: from words and a YAML file to their values."""

from __future__ import annotations

import inspect
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml

from scoresde.cli.calls import Call, Problem, call_of, hint, hints, known, parameters
from scoresde.cli.values import Word, is_many, members, notes, problem_of, read, wanted, yaml_of


@dataclass(frozen=True)
class Option:
    """An argument of a function: its name, type, default and what its docstring says of it."""

    name: str
    kind: Any
    default: Any
    help: str

    @property
    def positional(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def switch(self) -> bool:
        return members(self.kind) == [bool]

    @property
    def many(self) -> bool:
        return any(map(is_many, members(self.kind)))

    @property
    def mapping(self) -> bool:
        return any(kind is dict or get_origin(kind) is dict for kind in members(self.kind))

    @property
    def names(self) -> list[str]:
        """The values that have a name: built-in objects, or the table that Annotated[str, *table] notes."""
        if self.object is not None:
            return list(known(*self.object))
        return [str(name) for name in notes(self.kind)]

    @property
    def object(self) -> tuple[type, int] | None:
        """The class of objects that it takes, one or many; and how many arguments those get later."""
        kinds = members(self.kind)
        inner = [member for kind in kinds for member in (get_args(kind) if is_many(kind) else [kind])]
        return next(filter(None, map(wanted, inner)), None)


def options_of(function: Callable[..., Any]) -> dict[str, Option]:
    """The options of a function, all but `config`, which is for what is written of them."""
    types, said = hints(function), _said(function)
    return {
        name: Option(name, types.get(name, Any), parameter.default, said.get(name, ""))
        for name, parameter in parameters(function).items()
        if name != "config"
    }


def _said(function: Callable[..., Any]) -> dict[str, str]:
    """What the docstring's Args say of each: "name: text", going on in lines that are further in."""
    found: dict[str, str] = {}
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", inspect.getdoc(function) or "", re.M | re.S)
    for entry in re.split(r"\n(?=    \w)", section[1].rstrip() if section else ""):
        name, _, text = entry.strip().partition(":")
        found[name] = " ".join(text.split())
    return found


def values_of(
    words: Sequence[str], options: Mapping[str, Option], command: str, shown: bool = False
) -> dict[str, Any]:  # fmt: skip
    """Every option's value; words go before --config, and that before defaults.

    shown: to be looked at only, so that what must be given may be left out.

    Raises:
        Problem: the first thing that is wrong.
    """
    given, nested, files = _gather(deque(words), options, command)
    tree: dict[str, Any] = {}
    for file in files:
        tree |= _loaded(Path(file), options, command)
    tree |= given
    for (name, *path), word in nested:
        tree[name] = _put(tree.get(name), options[name], path, word)
    values = {}
    for name, option in options.items():
        if name in tree and not (option.positional and tree[name] is None):
            values[name] = read(tree[name], option.kind, name)
        elif option.positional and shown:
            values[name] = None
        elif option.positional:
            raise Problem(name, f"must be given: scoresde {command} {name.upper()}")
        else:
            values[name] = option.default
    return values


def _gather(
    words: deque[str], options: Mapping[str, Option], command: str
) -> tuple[dict[str, Any], list[tuple[list[str], Word]], list[str]]:
    """The options that are given whole, those of parts of objects, and the names of configurations."""
    given: dict[str, Any] = {}
    nested: list[tuple[list[str], Word]] = []
    files: list[str] = []
    places = deque(option.name for option in options.values() if option.positional)

    def following() -> bool:
        return bool(words) and not words[0].startswith("--")

    while words:
        word = words.popleft()
        if not word.startswith("--"):
            if not places:
                raise Problem("", f"what is {word!r}? Options begin with --, see scoresde {command} --help")
            given[places.popleft()] = Word(word)
            continue
        written, equals, value = word[2:].partition("=")
        name, *path = written.replace("-", "_").split(".")
        if name not in options and name != "config":
            raise Problem(f"--{written}", f"{command} has no such option.{hint(name, [*options, 'config'])}")
        if not equals:
            option = options.get(name)
            if path or (option is not None and option.switch):
                bare = not following() or (not path and words[0].lower() not in ("true", "false"))
                value = "true" if bare else words.popleft()
            elif not following():
                raise Problem(name, "needs a value")
            elif option is not None and option.many:
                found = []
                while following():
                    found.append(Word(words.popleft()))
                given[name] = found if len(found) > 1 else found[0]
                continue
            else:
                value = words.popleft()
        if name == "config":
            files.append(value)
        elif path:
            nested.append(([name, *path], Word(value)))
        else:
            given[name] = Word(value)
    return given, nested, files


def _loaded(path: Path, options: Mapping[str, Option], command: str) -> dict[str, Any]:
    """A YAML file of options."""
    try:
        tree = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise Problem("config", f"{path} is no YAML ({problem_of(error)})") from error
    except (OSError, UnicodeDecodeError) as error:
        raise Problem("config", f"{path} cannot be read: {getattr(error, 'strerror', None) or 'no text'}") from error
    if not isinstance(tree, dict):
        raise Problem("config", f"{path} must hold options, one a line, such as steps: 1000")
    for name in tree:
        if name not in options:
            raise Problem(str(name), f"{command} has no such option (in {path}).{hint(str(name), options)}")
    return tree


def _put(value: Any, option: Option, path: list[str], word: Word) -> Any:
    """The value with a part set: an argument of an object, or an entry of a mapping."""
    key = ".".join([option.name, *path])
    if option.mapping:
        whole = yaml_of(value, option.name) if isinstance(value, str) else {} if value is None else value
        if not isinstance(whole, dict):
            raise Problem(option.name, f"must be a mapping, got {value!r}")
    elif option.object is None:
        raise Problem(key, f"{option.name} has no parts; write --{option.name} VALUE")
    elif option.many:
        raise Problem(key, f"write it inside the call, such as --{option.name} 'NAME({path[-1]}={word})'")
    elif value is None:
        raise Problem(key, f"write --{option.name} too, such as --{option.name} {next(iter(known(*option.object)))}")
    else:
        whole = call_of(value, option.name)
    place: Any = whole
    for i, part in enumerate(path):
        table = place.arguments if isinstance(place, Call) else place
        if i == len(path) - 1:
            table[part] = word
        elif part not in table:
            raise Problem(key, f"write --{'.'.join([option.name, *path[: i + 1]])} too")
        else:
            place = table[part] = table[part] if isinstance(table[part], dict) else call_of(table[part], key)
    return whole

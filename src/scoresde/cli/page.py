"""Help and shell completion: the options of commands as argparse shows them."""

from __future__ import annotations

import argparse
import inspect
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

from scoresde.cli.calls import Problem, find, hints
from scoresde.cli.values import members
from scoresde.cli.words import Option, options_of

METAVARS: dict[Any, str] = {int: "N", float: "X", Path: "PATH", str: "NAME"}

SHELLS = ("bash", "zsh", "tcsh")

FILES = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}
"""What shtab takes for paths."""


def _formatter(raw: bool = False) -> Any:
    kind = argparse.RawDescriptionHelpFormatter if raw else argparse.HelpFormatter
    return partial(kind, width=min(80, shutil.get_terminal_size().columns), max_help_position=22)


def page_of(command: str, function: Callable[..., Any]) -> argparse.ArgumentParser:
    """The help page of a command."""
    options = options_of(function)
    positional = "".join(f" {option.name.upper()}" for option in options.values() if option.positional)
    parser = argparse.ArgumentParser(
        prog=f"scoresde {command}", usage=f"scoresde {command}{positional} [options]", add_help=False,
        description=(inspect.getdoc(function) or "").partition("\nArgs:")[0],
        formatter_class=_formatter(),
    )  # fmt: skip
    for option in options.values():
        _show(parser, option)
    _show_common(parser)
    objects = [option for option in options.values() if option.object]
    if objects:
        first = objects[0]
        parser.epilog = (
            f"--{first.name} takes classes by their names, arguments in the call"
            f"{'' if first.many else ' or as options of their own'} (--{first.name}.help NAME lists them); "
            "a class of your own by module.Name, from the current folder."
        )
    return parser


def _show_common(parser: argparse.ArgumentParser) -> None:
    config = parser.add_argument(
        "--config", metavar="FILE", help="options as YAML, such as an earlier run's config.yaml"
    )
    config.complete = FILES  # type: ignore[attr-defined]
    parser.add_argument("--print_config", action="store_true", help="print the options as YAML, and stop")
    parser.add_argument("-h", "--help", action="store_true", help="show this, and stop")


def _show(parser: argparse.ArgumentParser, option: Option) -> None:
    kinds, given = members(option.kind), option.default
    text = option.help.replace("%", "%%")
    names = option.names
    if not all(name in text for name in names):
        text += f" Known: {', '.join(names)}."
    if given is not None and given is not False and not option.positional:
        text = f"{text if text.endswith('...') else text.removesuffix('.')} (default: {str(given).replace('%', '%%')})"
    if option.switch:
        parser.add_argument(f"--{option.name}", action="store_true", help=text)
        return
    parts = [inner for kind in kinds for inner in (kind, *get_args(kind))]
    scalar = next((part for part in parts if isinstance(part, type) and part in METAVARS), None)
    metavar = "CLASS" if option.object else "YAML" if option.mapping else METAVARS.get(scalar, "VALUE")
    more: dict[str, Any] = {"nargs": "+"} if option.many else {}
    flag = option.name if option.positional else f"--{option.name}"
    action = parser.add_argument(flag, metavar=option.name.upper() if option.positional else metavar, help=text, **more)
    if names:
        action.choices = names
    elif Path in kinds:
        action.complete = FILES  # type: ignore[attr-defined]


def top(
    commands: Mapping[str, str], epilog: str, load: Callable[[str], Any] | None = None
) -> argparse.ArgumentParser:  # fmt: skip
    """The page of all commands, name → summary; with all options, for completion, if their functions can be loaded."""
    parser = argparse.ArgumentParser(
        prog="scoresde", usage="scoresde COMMAND [options]", add_help=False, epilog=epilog,
        description="Score, diffusion and flow models under one interface, every claim tested\n"
        "against an exact answer.",
        formatter_class=_formatter(raw=True),
    )  # fmt: skip
    parser.add_argument("-h", "--help", action="store_true", help="show this; COMMAND --help shows a command's options")
    parser.add_argument("--version", action="store_true", help="print the version")
    said = f"print what makes TAB work in {', '.join(SHELLS)}"
    parser.add_argument("--print_completion", choices=SHELLS, metavar="SHELL", help=said)
    if load is None:
        group = parser.add_argument_group("commands")
        for name, summary in commands.items():
            group.add_argument(name, help=summary)
        return parser
    group = parser.add_subparsers()
    for name, summary in commands.items():
        inner = group.add_parser(name, help=summary, add_help=False)
        for option in options_of(load(name)).values():
            _show(inner, option)
        _show_common(inner)
    return parser


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script that makes a shell complete commands, options and names."""
    import shtab

    return shtab.complete(parser, shell)


def about(name: str, option: Option) -> str:
    """The arguments of a class that an option takes, and what its docstring says."""
    if option.object is None:
        raise Problem(f"{option.name}.help", f"{option.name} takes no class")
    target = find(name, option.object[0], option.name, option.object[1])
    types, lines = hints(target), []
    for argument in list(inspect.signature(target).parameters.values())[option.object[1] :]:
        kind = types.get(argument.name)
        shown = getattr(kind, "__name__", None) or str(kind).replace("typing.", "")
        default = "" if argument.default is argument.empty else f" (default: {argument.default!r})"
        lines.append(f"  --{option.name}.{argument.name} {shown}{default}")
    return "\n".join([f"{name}: {inspect.getdoc(target) or ''}", "", "options:", *(lines or ["  none"])])

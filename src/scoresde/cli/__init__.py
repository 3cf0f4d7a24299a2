"""The command line: scoresde, or python -m scoresde. Every command is a function; its arguments are the options."""

from __future__ import annotations

import dis
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from traceback import walk_tb
from typing import Any, NamedTuple

from scoresde.cli import page
from scoresde.cli.calls import Problem, built, hint
from scoresde.cli.values import written
from scoresde.cli.words import options_of, values_of


class Command(NamedTuple):
    """Where a command's function is, what it does, what Ctrl-C leaves, and what to say of the `result` at the end."""

    path: str
    summary: str
    kept: str = "nothing was kept"
    said: str = ""

    def load(self) -> Callable[..., Any]:
        module, _, name = self.path.partition(":")
        return getattr(import_module(module), name)


ON, DRAWS = "the same command goes on from the last", "{steps} steps in {out}; scoresde sample {out} draws from them"
SHOWN = "index.html shows the lessons that were done"

COMMANDS = {
    "demo":       Command("scoresde.cli.small:demo", "four processes on handwritten digits, in three minutes"),
    "train":      Command("scoresde.runs:train", "train a network on a data set", f"{ON} checkpoint", DRAWS),
    "sample":     Command("scoresde.runs:sample", "draw samples from it", f"{ON} file", "{num} in {result[0].parent}"),
    "likelihood": Command("scoresde.runs:likelihood", "bits/dim of held-out data", f"{ON} batch", "{result}"),
    "compare":    Command("scoresde.compare:compare", "which process, prediction, sampler, steps?", f"{ON} cell"),
    "certify":    Command("scoresde.cli.small:certify", "measure every sampler's order against exact answers"),
    "figures":    Command("scoresde.figures:figures", "ten lessons: pictures and measured claims", SHOWN),
    "explore":    Command("scoresde.explore:explore", "five of them with sliders, as one HTML page"),
}  # fmt: skip
"""A command more is a row: a function with type hints and a docstring whose Args say one argument a line. What is
asked reaches it once more as YAML, if it takes `config`."""

RAISE = dis.opmap["RAISE_VARARGS"]

EPILOG = """exit codes: 0 done, 1 a check failed, 2 wrong input, 130 interrupted
completion: scoresde --print_completion bash \\
              > ~/.local/share/bash-completion/completions/scoresde
to begin:   scoresde certify --quick"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 a check failed, 2 wrong input, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words[0] if words and words[0] in COMMANDS else ""
    try:
        with _current_folder():
            return _run(name, words[1:]) if name else _answer(words)
    except KeyboardInterrupt:
        line = "\n" if sys.stderr.isatty() else ""  # below a bar
        print(f"{line}interrupted; {COMMANDS[name].kept if name else 'nothing was done'}", file=sys.stderr)
        return 130
    except Exception as error:
        if not _is_wrong_input(error):
            raise
        print(f"scoresde {name}".rstrip() + f": {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _run(name: str, words: list[str]) -> int:
    """Run one command, or print what was asked about it."""
    function = COMMANDS[name].load()
    options = options_of(function)
    if "--help" in words or "-h" in words:
        print(page.page_of(name, function).format_help(), end="")
        return 0
    for word, after in zip(words, [*words[1:], ""]):
        if word.startswith("--") and word.endswith(".help") and word[2:-5] in options:
            print(page.about(after, options[word[2:-5]]))
            return 0
    shown = "--print_config" in words
    values = values_of([word for word in words if word != "--print_config"], options, name, shown)
    if shown:
        print(written(values), end="")
        return 0
    told = {"config": written(values)} if "config" in function.__annotations__ else {}
    result = function(**{name: built(value, name) for name, value in values.items()}, **told)
    if COMMANDS[name].said and os.environ.get("RANK", "0") == "0":
        print(COMMANDS[name].said.format(result=result, **values))
    return result if isinstance(result, int) else 0


def _answer(words: list[str]) -> int:
    """What needs no command: help, the version, completion."""
    first, *rest = words or ["--help"]
    if first in ("-h", "--help"):
        print(_page().format_help(), end="")
    elif first == "--version":
        from scoresde import __version__

        print(f"scoresde {__version__}")
    elif first == "--print_completion":
        if not rest or rest[0] not in page.SHELLS:
            raise Problem("--print_completion", f"must be one of {', '.join(page.SHELLS)}")
        print(page.completion(_page(lambda name: COMMANDS[name].load()), rest[0]))
    else:
        raise Problem("", f"there is no command {first!r}; known: {', '.join(COMMANDS)}.{hint(first, COMMANDS)}")
    return 0


def _page(load: Callable[[str], Any] | None = None) -> Any:
    return page.top({name: command.summary for name, command in COMMANDS.items()}, EPILOG, load)


@contextmanager
def _current_folder() -> Iterator[None]:
    """Let modules be found in the current folder; last, so that no file there takes the place of a package."""
    here = os.getcwd()
    sys.path.append(here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.reverse()
            sys.path.remove(here)
            sys.path.reverse()


def _is_wrong_input(error: Exception) -> bool:
    """Whether the input is to blame: a refusal of this package, a file, a missing package, too little memory.

    A ValueError or TypeError that nothing here raised on purpose is a bug, and keeps its traceback; so does one that
    came about in code of the user's own.
    """
    if isinstance(error, (Problem, OSError)) or type(error).__name__ == "OutOfMemoryError":
        return True
    if not isinstance(error, (ValueError, TypeError, ImportError)):
        return False
    frames = [frame for each in (error, error.__cause__) if each for frame, _ in walk_tb(each.__traceback__)]
    if not frames or any(_is_users(frame.f_code.co_filename) for frame in frames):
        return False
    last = list(walk_tb(error.__traceback__))[-1][0]
    raised = last.f_code.co_code[last.f_lasti] == RAISE
    return raised and last.f_globals.get("__name__", "").partition(".")[0] == "scoresde"


def _is_users(file: str) -> bool:
    """Whether a file is neither of this package nor an installed one nor of Python itself."""
    paths = sysconfig.get_paths()
    homes = (os.path.dirname(os.path.dirname(__file__)), paths["stdlib"], paths["purelib"], paths["platlib"])
    return not file.startswith(("<", *homes))


if __name__ == "__main__":
    sys.exit(main())

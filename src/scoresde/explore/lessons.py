"""Where the lessons are, in a checkout or an installed wheel, and how one is loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, invalidate_caches
from pathlib import Path
from types import ModuleType


def folder() -> Path:
    """The folder that holds the lessons.

    Raises:
        FileNotFoundError: they are neither in the package nor in a checkout around it.
    """
    package = Path(__file__).parents[1]
    places = (package / "lessons", package.parents[1] / "experiments")
    for place in places:
        if (place / "lesson.py").exists():
            return place
    raise FileNotFoundError(f"the lessons are neither in {places[0]} nor in {places[1]}; install scoresde anew")


def load(name: str) -> ModuleType:
    """A lesson as a module, which only the caller holds.

    Raises:
        FileNotFoundError: there is no such lesson.
    """
    home = folder()
    if not (home / f"{name}.py").exists():
        raise FileNotFoundError(f"there is no lesson {name!r} in {home}")
    invalidate_caches()
    with _visible(home):
        return import_module(name)


@contextmanager
def _visible(home: Path) -> Iterator[None]:
    """Let the files of a folder import each other, not others of the same names; afterwards all is as it was."""
    names = {path.stem for path in home.glob("*.py")}
    others = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    sys.path.insert(0, str(home))
    try:
        yield
    finally:
        sys.path.remove(str(home))
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(others)

"""Data by one name or path, with their labels and their scaling."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from scoresde import _checks
from scoresde.data.data import Data
from scoresde.data.files import read_arrays, read_csv, read_parquet
from scoresde.data.images import SUFFIXES, read_images
from scoresde.data.levels import dequantize, dequantized, digits
from scoresde.data.names import NAMES, waves_law
from scoresde.data.packages import read_huggingface, read_torchvision
from scoresde.data.sound import read_sound

__all__ = ["NAMES", "Data", "dequantize", "dequantized", "digits", "load", "waves_law"]

FILES: dict[str, Callable[..., Data]] = {
    ".csv": read_csv, ".tsv": read_csv, ".parquet": read_parquet, ".npy": read_arrays, ".npz": read_arrays,
}  # fmt: skip
PACKAGES: dict[str, Callable[..., Data]] = {"torchvision": read_torchvision, "huggingface": read_huggingface}


def load(name_or_path: str | Path, **options: Any) -> Data:
    """Data by one name or path.

        load("digits"), load("moons", n=1000)          a name: scoresde.data.NAMES lists them
        load("table.csv", label="species")             .csv, .tsv, .parquet: numbers in columns, standardised
        load("images.npz")                             .npy, .npz: an array (N, *), and labels beside it
        load("photographs/", size=64)                  a folder of images, subfolders as classes
        load("sounds/", length=16384)                  a .wav file or a folder of them, in windows
        load("torchvision:CIFAR10", root="data")       and "huggingface:name", where those packages are installed

    Nothing is fetched from the network, but where download=True is written; no pickle is opened. Files are taken in
    the order of their names.

    Args:
        name_or_path: a name goes before a file of that name; write "./digits" for the file.
        options: of the reader, such as n, seed, label, drop, levels, key, size, mode, length, lazy, root, split.
    Raises:
        ValueError, TypeError: an unknown name or option; data that are damaged, ragged, empty or not finite.
        FileNotFoundError: nothing is there. ImportError: an optional package is missing.

    Example:
        >>> import torch
        >>> data = load("moons", n=500)
        >>> train, held = data.split(0.1)
        >>> x, cond = train.batch(torch.arange(8))
        >>> data, len(train), x.shape, cond
        (moons: 500 samples of shape (2,), 450, torch.Size([8, 2]), {})
    """
    _checks.path("name_or_path", name_or_path)
    name = os.fspath(name_or_path)
    if not name:
        raise ValueError("name_or_path must be a name or a path, got an empty text; write './' for the current folder")
    kind, _, rest = name.partition(":")
    if name in NAMES and not isinstance(name_or_path, Path):
        reader = NAMES[name].load
    elif kind in PACKAGES and rest:
        reader = partial(PACKAGES[kind], rest)
    else:
        reader = _reader(name, Path(name).expanduser())
    known = inspect.signature(reader).parameters
    if not any(value.kind is value.VAR_KEYWORD for value in known.values()):
        for option in options:
            if option not in known:
                takes = f"it takes {', '.join(known)}" if known else "it takes none"
                raise TypeError(f"unknown option {option!r} for {name!r}; {takes}")
    return reader(**options)


def _reader(name: str, path: Path) -> Callable[..., Data]:
    """What reads a file or a folder."""
    if path.is_dir():
        return _folder_reader(path)
    if not path.is_file():
        known = [*NAMES, *(f"{kind}:..." for kind in PACKAGES)]
        if path.suffix or len(path.parts) > 1 or path.is_absolute():
            raise FileNotFoundError(f"there is no file or folder {name!r}, seen from {os.getcwd()!r}")
        close = get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown data {name!r}; known: {', '.join(known)}, or the path of a file or folder.{hint}")
    if not path.stat().st_size:
        raise ValueError(f"{name} is empty")
    suffix = path.suffix.lower()
    if suffix == ".wav":
        return partial(read_sound, path.parent, [path.name])
    if suffix in SUFFIXES:
        raise ValueError(f"{name} is one image; write the folder that it lies in")
    if suffix not in FILES:
        raise ValueError(f"{name} has an unknown suffix; known: {', '.join(FILES)}, .wav, or a folder of images")
    return partial(FILES[suffix], path)


def _folder_reader(path: Path) -> Callable[..., Data]:
    """What reads a folder: its images or its sounds, sorted by name, hidden ones left out."""
    images, sounds = [], []
    for folder, inner, names in os.walk(path, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith(".")]
        below = os.path.relpath(folder, path).replace(os.sep, "/")
        for file in names:
            suffix = os.path.splitext(file)[1].lower()
            found = images if suffix in SUFFIXES else sounds if suffix == ".wav" else None
            if found is not None and not file.startswith("."):
                found.append(file if below == "." else f"{below}/{file}")
    if bool(images) == bool(sounds):
        holds = "both images and .wav files" if images else f"no images ({', '.join(SUFFIXES)}) and no .wav files"
        raise ValueError(f"{path} holds {holds}; write a folder of one kind")
    return partial(read_images if images else read_sound, path, sorted(images or sounds))

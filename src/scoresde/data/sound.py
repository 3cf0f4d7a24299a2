"""Sound in .wav files, read by windows when they are asked for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.io import wavfile
from torch import Tensor

from scoresde import _checks
from scoresde.data.data import Data, settle
from scoresde.data.files import classes_of
from scoresde.scaling import Scaling

LEVELS = {"uint8": 2**8, "int16": 2**16}
"""Of linear PCM with so few bits that each level matters. Finer PCM is read as numbers in [−1, 1]."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of equal length, (channels, length): window k starts k·length after the file's beginning.

    Args:
        files: their paths. ends: how many windows there are up to the end of each. kind: the samples' dtype.
    """

    files: tuple[Path, ...]
    ends: np.ndarray
    length: int
    channels: int
    kind: str

    @property
    def shape(self) -> tuple[int, ...]:
        return int(self.ends[-1]), self.channels, self.length

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, rows: Tensor) -> Tensor:
        dtype = torch.int32 if self.kind in LEVELS else torch.float32
        found = torch.empty(len(rows), self.channels, self.length, dtype=dtype)
        at = np.searchsorted(self.ends, rows.numpy(), side="right")
        order = np.argsort(at, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(at[order], prepend=-1)))[1:]:  # file by file
            file = at[part[0]]
            sound = read_wav(self.files[file])[1]
            for i in part:
                start = (int(rows[i]) - (int(self.ends[file - 1]) if file else 0)) * self.length
                piece = np.array(sound[start : start + self.length], dtype=f"={sound.dtype.str[1:]}")
                found[i] = self._numbers(torch.from_numpy(piece), self.files[file]).reshape(self.length, -1).mT
        return found

    def _numbers(self, piece: Tensor, file: Path) -> Tensor:
        if self.kind in LEVELS:
            return piece.int() + (2**15 if self.kind == "int16" else 0)
        if not piece.is_floating_point():
            return (piece.double() / 2.0 ** (8 * piece.element_size() - 1)).float()
        if not bool(torch.isfinite(piece).all()):
            raise ValueError(f"{file} holds NaN or infinite samples; remove it or write it anew")
        return piece.float()


def read_sound(root: Path, files: Sequence[str], length: int | None = None, lazy: bool | None = None) -> Data:
    """The .wav files of a folder in windows (channels, length); subfolders are classes.

    PCM of 8 and 16 bits is kept as 256 and 65,536 levels (the 16-bit sample s is level s + 32,768), so that
    likelihoods know the bit depth and the inverse gives the sound back exactly; x fills [−1, 1]. PCM of 24 and
    32 bits, over its full scale, and floating-point sound, as it is, are continuous numbers.

    Args:
        length: samples a window, side by side; what is left at a file's end is left out. None: whole files, all
            of one length.
        lazy: whether to read a window each time it is asked for; None: if all together are above 256 MiB.
    """
    paths, first, counts = tuple(root / file for file in files), None, []
    window = None if length is None else _checks.count("length", length)
    for path in paths:
        rate, sound = read_wav(path)
        about = rate, 1 if sound.ndim == 1 else sound.shape[1], str(sound.dtype.newbyteorder("="))
        first = first or about
        for what, got, wanted in zip(("samples a second", "channels", "samples"), about, first):
            if got != wanted:
                raise ValueError(f"{path} has {got} {what}, but {paths[0].name} {wanted}; convert one of them")
        window = window or len(sound)
        if len(sound) < window or (length is None and len(sound) != window):
            wanted = "at least " * (length is not None) + str(window)
            raise ValueError(f"{path} has {len(sound)} samples, not {wanted}; write the shortest file's as length=")
        counts.append(len(sound) // window)
    assert first is not None and window is not None
    rate, channels, kind = first
    windows = Windows(paths, np.cumsum(counts), window, channels, kind)
    labels, classes = classes_of(root, files)
    labels = None if labels is None else labels.repeat_interleave(torch.tensor(counts))
    scaling = Scaling.of_levels(LEVELS[kind]) if kind in LEVELS else Scaling()
    return Data(settle(windows, lazy, 4), labels, scaling, root.resolve().name, classes, rate=rate)


def read_wav(path: Path) -> tuple[int, np.ndarray]:
    """Samples a second, and the samples, (n,) or (n, channels), mapped rather than read where the format allows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of notes beside the sound
        warnings.filterwarnings("error", "Reached EOF prematurely")
        try:
            try:
                rate, sound = wavfile.read(path, mmap=True)
            except ValueError as error:
                if "mmap" not in str(error) or "length" in str(error):
                    raise
                rate, sound = wavfile.read(path)  # 24 bits have no dtype to map
        except Exception as error:  # scipy's reader raises anything on a broken file
            why = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
            raise ValueError(f"cannot read the sound {path} ({why}); remove it or write it anew") from error
    if not len(sound):
        raise ValueError(f"{path} holds no sound; remove it")
    return rate, sound

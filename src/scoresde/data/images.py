"""Folders of images, read when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde import _checks
from scoresde.data.data import Data, require, settle
from scoresde.data.files import classes_of
from scoresde.scaling import Scaling

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
GREY = ("1", "L", "LA", "La")
DEEP = ("I", "F")


@dataclass(frozen=True, eq=False)
class Images:
    """Images as (C, H, W) bytes, decoded by threads when they are asked for.

    Args:
        open: image i as Pillow has it. call: image i by name. count: how many.
        mode: "RGB" or "L". faithful: whether to refuse colour where mode is "L", which no one asked for.
        size: (H, W). fit: whether to bring images of another size to it, or refuse them.
        threads: whether `open` may be called by several at once.
    """

    open: Callable[[int], Any]
    call: Callable[[int], str]
    count: int
    mode: str
    faithful: bool
    size: tuple[int, int]
    fit: bool
    threads: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.count, 3 if self.mode == "RGB" else 1, *self.size)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, rows: Tensor) -> Tensor:
        if not len(rows):
            return torch.empty(0, *self.shape[1:], dtype=torch.uint8)
        if not self.threads or len(rows) == 1:
            return torch.stack([self._read(row) for row in rows.tolist()])
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1, len(rows))) as pool:
            return torch.stack(list(pool.map(self._read, rows.tolist())))

    def _read(self, row: int) -> Tensor:
        with decoded(self.open, row, self.call) as image:
            if self.faithful and self.mode == "L" and image.mode not in GREY:
                raise ValueError(f"{self.call(row)} has colour, the first image has none; write mode='RGB' or mode='L'")
            plain = _plain(image, self.mode)
        if self.fit:
            bicubic = require("PIL.Image", "images").Resampling.BICUBIC
            plain = require("PIL.ImageOps", "images").fit(plain, self.size[::-1], bicubic)
        if plain.size[::-1] != self.size:
            got, first = ("{} × {}".format(*size) for size in (plain.size[::-1], self.size))
            raise ValueError(f"{self.call(row)} is {got} pixels, the first {first}; write size={min(self.size)}")
        pixels = torch.from_numpy(np.array(plain))
        return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def read_images(
    root: Path, files: Sequence[str], size: int | tuple[int, int] | None = None, mode: str | None = None,
    lazy: bool | None = None,
) -> Data:  # fmt: skip
    """The images of a folder, 256 levels; the subfolders that they lie in are their classes.

    Of an image with several frames the first is taken; a transparent one is laid on white; a camera's turn is
    undone; more than eight bits a channel are refused.

    Args:
        size: a side or (H, W): each image is brought to it by a cut around the centre and bicubic interpolation;
            None: as they are, all of one size.
        mode: "RGB" or "L" (grey): each image is converted to it; None: "RGB", or "L" if the first image is grey,
            where colour is then refused.
        lazy: whether to read an image each time it is asked for; None: if all together are above 256 MiB.
    """
    labels, classes = classes_of(root, files)
    images = images_of(
        lambda row: require("PIL.Image", "images").open(root / files[row]), lambda row: str(root / files[row]),
        len(files), size, mode,
    )  # fmt: skip
    return Data(settle(images, lazy, 1), labels, Scaling.of_levels(256), root.resolve().name, classes)


def images_of(
    open: Callable[[int], Any], call: Callable[[int], str], count: int, size: int | tuple[int, int] | None,
    mode: str | None, threads: bool = True,
) -> Images:  # fmt: skip
    """Images that `open` opens by number; the first of them settles the size and the mode that are not given."""
    if size is not None:
        sides = (size, size) if isinstance(size, (int, float)) else tuple(size)
        if len(sides) != 2:
            raise ValueError(f"size must be a side or (H, W), got {size!r}")
        sides = (_checks.count("size", sides[0]), _checks.count("size", sides[1]))
    if mode is not None:
        _checks.choice("mode", mode, ("RGB", "L"))
    with decoded(open, 0, call) as first:
        shape = sides if size is not None else first.size[::-1]
        chosen = mode or ("L" if first.mode in GREY else "RGB")
    return Images(open, call, count, chosen, mode is None, shape, size is not None, threads)


def decoded(open: Callable[[int], Any], row: int, call: Callable[[int], str]) -> Any:
    """The image, upright; whatever is wrong with it, its name is told."""
    image = None
    try:
        image = open(row)
        image.load()
        require("PIL.ImageOps", "images").exif_transpose(image, in_place=True)
    except ImportError:
        raise
    except Exception as error:  # Pillow's decoders raise anything
        if image is not None:
            image.close()
        why = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise ValueError(f"cannot read the image {call(row)} ({why}); remove it or write it anew") from error
    if image.mode.split(";")[0] in DEEP:
        raise ValueError(f"{call(row)} has more than 8 bits a channel ({image.mode}); write 8-bit images, or a .npy")
    return image


def _plain(image: Any, mode: str) -> Any:
    """In mode "RGB" or "L"; what shines through is white."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = require("PIL.Image", "images").new("RGBA", image.size, "white")
        image = require("PIL.Image", "images").alpha_composite(white, image)
    return image if image.mode == mode else image.convert(mode)

"""Data sets of torchvision and Hugging Face, if those packages are installed and the data are on this machine."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from scoresde import _checks
from scoresde.data.data import Data, require, settle
from scoresde.data.images import images_of
from scoresde.scaling import Scaling

Size = int | tuple[int, int] | None


def read_torchvision(
    name: str, root: str | Path = "data", download: bool = False, size: Size = None, mode: str | None = None,
    lazy: bool | None = None, **options: Any,
) -> Data:  # fmt: skip
    """A data set of torchvision's, such as CIFAR10, with its labels if they are one number an image.

    Args:
        root: where it is kept. download: whether it may be fetched from the network.
        size, mode, lazy: as for a folder of images. options: the data set's own, such as train=False.
    """
    known = require("torchvision.datasets", f"torchvision:{name}", "torchvision")
    kind = getattr(known, _checks.choice("data set of torchvision", name, known.__all__))
    takes = inspect.signature(kind).parameters
    places = {key: value for key, value in {"root": str(root), "download": download}.items() if key in takes}
    try:
        found = kind(**places, **options)
    except (RuntimeError, FileNotFoundError) as error:
        why = (str(error).splitlines() or [""])[0]
        raise FileNotFoundError(f"{name} is not in {str(root)!r} ({why}); write root=..., or download=True") from error
    labels = next((getattr(found, key) for key in ("targets", "labels", "_labels") if hasattr(found, key)), None)
    classes = getattr(found, "classes", ())
    return _images(name, lambda row: found[row][0], len(found), labels, classes, size, mode, lazy)


def read_huggingface(
    name: str, split: str = "train", image: str | None = None, label: str | None = None, download: bool = False,
    size: Size = None, mode: str | None = None, lazy: bool | None = None, **options: Any,
) -> Data:  # fmt: skip
    """The images of a Hugging Face data set: a folder that save_to_disk wrote, or a name whose data are in the cache.

    Args:
        split: which part. image, label: columns; None: the first of images, and of class labels if there are any.
        download: whether it may be fetched from the network.
        size, mode, lazy: as for a folder of images. options: of datasets.load_dataset.
    """
    datasets = require("datasets", f"huggingface:{name}", "datasets")
    if Path(name).is_dir() and any((Path(name) / file).exists() for file in ("state.json", "dataset_dict.json")):
        found = datasets.load_from_disk(name)
        found = found[_checks.choice("split", split, found)] if isinstance(found, dict) else found
    elif download:
        found = datasets.load_dataset(name, split=split, **options)
    else:
        with _offline(datasets):
            try:
                found = datasets.load_dataset(name, split=split, **options)
            except (OSError, ValueError) as error:
                why = (str(error).splitlines() or [""])[0]
                raise FileNotFoundError(f"{name} is not on this machine ({why}); write download=True") from error
    kinds = {"image": datasets.Image, "label": datasets.ClassLabel}
    features = found.features.items()
    columns = {what: [key for key, value in features if isinstance(value, kind)] for what, kind in kinds.items()}
    if image is None and not columns["image"]:
        raise ValueError(f"{name} has no images among its columns ({', '.join(found.features)}); "
                         "write its numbers with to_parquet(path) and load that file")  # fmt: skip
    image = columns["image"][0] if image is None else _checks.choice("image", image, columns["image"])
    label = _checks.choice("label", label, columns["label"]) if label else next(iter(columns["label"]), None)
    labels, classes = (None, ()) if label is None else (found[label][:], found.features[label].names)
    return _images(name, lambda row: found[row][image], len(found), labels, classes, size, mode, lazy)


def _images(
    name: str, open: Callable[[int], Any], count: int, labels: Any, classes: Sequence[str], size: Size,
    mode: str | None, lazy: bool | None,
) -> Data:  # fmt: skip
    images = images_of(open, lambda row: f"{name}[{row}]", count, size, mode, threads=False)
    if labels is not None:
        labels = torch.as_tensor(labels)
        whole = labels.shape == (count,) and not labels.is_floating_point()
        labels, classes = (labels.long(), tuple(map(str, classes))) if whole else (None, ())
    classes = classes if labels is not None else ()
    return Data(settle(images, lazy, 1), labels, Scaling.of_levels(256), Path(name).name, tuple(classes))


@contextmanager
def _offline(datasets: Any) -> Iterator[None]:
    """No request leaves the machine: the two packages' own switch, put back afterwards."""
    switches = datasets.config, require("huggingface_hub.constants", "datasets", "datasets")
    kept = [switch.HF_HUB_OFFLINE for switch in switches]
    try:
        for switch in switches:
            switch.HF_HUB_OFFLINE = True
        yield
    finally:
        for switch, value in zip(switches, kept):
            switch.HF_HUB_OFFLINE = value

"""Many samples, as files: split over processes, taken up again after a stop, and the same however they were split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from scoresde import _checks
from scoresde._files import sweep, whole
from scoresde.model import Model
from scoresde.samplers.loop import sample


def sample_shards(
    model: Model, num: int, folder: str | Path, *, shape: tuple[int, ...] | None = None, shard: int = 1000,
    seed: int = 0, processes: int = 1, process: int = 0, **options: Any,
) -> Iterator[Path]:  # fmt: skip
    """Draw samples 0..num − 1 into files of `shard` samples each, yielding every file that is there.

    Sample i has the seed `seed` + i: it is the same whatever the number of processes, and whatever was drawn before a
    stop. Files that are there are kept; a file is whole or not there. In each is one tensor "samples", (shard, *):
    raw values, if the model has the scaling of its data.

    Args:
        num: how many samples in all. folder: for samples-00000.safetensors, samples-00001.safetensors, ...
        shape: of one sample, that of the model's moments if None. shard: samples a file, which are drawn at once.
        processes, process: how many share the work, and which one this is; each takes every processes-th file.
        options: as `sample` has them: sampler, steps, grid.
    Raises:
        ValueError: a folder with samples of another model, seed, sampler or shard; a model that does not tell its
            data's shape. OSError: a full disk.

    Example:
        >>> import tempfile
        >>> from scoresde import VP, targets
        >>> from scoresde.samplers import sample_shards
        >>> model = targets.Gaussian([1.0, -1.0], 0.25).model(VP())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path.name for path in sample_shards(model, 5, folder, shard=2)]
        ['samples-00000.safetensors', 'samples-00001.safetensors', 'samples-00002.safetensors']
    """
    num, shard = _checks.count("num", num), _checks.count("shard", shard)
    processes, process = _checks.count("processes", processes), _checks.count("process", process, 0)
    if process >= processes:
        raise ValueError(f"process must be one of 0..{processes - 1}, got {process}")
    if shape is None:
        if model.moments is None or not isinstance(model.moments[0], Tensor):
            raise ValueError("shape must be given for a model without moments, such as shape=(1, 28, 28)")
        shape = tuple(model.moments[0].shape)
    return _shards(model, num, Path(folder), shape, shard, _checks.count("seed", seed, 0), processes, process, options)


def _shards(
    model: Model, num: int, folder: Path, shape: tuple[int, ...], shard: int, seed: int, processes: int, process: int,
    options: dict[str, Any],
) -> Iterator[Path]:  # fmt: skip
    drawn_by = _fingerprint(model, options)
    sweep(folder)
    for i in count(process, processes):
        first, last = i * shard, min((i + 1) * shard, num)
        if first >= num:
            return
        path = folder / f"samples-{i:05d}.safetensors"
        about = {"first": str(first), "count": str(last - first), "seed": str(seed), "by": drawn_by}
        if path.exists():
            _check_same(path, about)
        else:
            x = sample(model, (last - first, *shape), seeds=range(seed + first, seed + last), **options)
            raw = x if model.scaling is None else model.scaling.inverse(x)
            if model.scaling is not None and (model.scaling.levels or 257) <= 256:
                raw = raw.to(torch.uint8)
            with whole(path) as draft:
                save_file({"samples": raw.detach().cpu().contiguous()}, draft, about)
        yield path


def _fingerprint(model: Model, options: dict[str, Any]) -> str:
    """What the samples depend on beside their seeds: the weights, the process, the sampler, the number of steps."""
    digest = hashlib.sha256(repr((model.process, model.prediction, sorted(options.items()))).encode())
    for value in model.net.state_dict().values() if isinstance(model.net, nn.Module) else ():
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _check_same(path: Path, about: dict[str, str]) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            had = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is no file of samples ({error}); remove it") from error
    if had != about:
        differ = ", ".join(name for name in about if had.get(name) != about[name])
        raise ValueError(f"{path} holds other samples than these (other {differ}); name another folder, or remove it")

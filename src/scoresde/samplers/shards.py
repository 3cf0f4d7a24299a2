"""Many samples, as files: split over processes, taken up again after a stop, and the same however they were split."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scoresde import _checks
from scoresde._files import sweep, whole
from scoresde._fingerprint import fingerprint
from scoresde.model import Model
from scoresde.samplers.loop import sample


def sample_shards(
    model: Model, num: int, folder: str | Path, *, shape: tuple[int, ...] | None = None, shard: int = 1000,
    batch: int | None = None, seed: int = 0, processes: int = 1, process: int = 0, **options: Any,
) -> Iterator[Path]:  # fmt: skip
    """Draw samples 0..num − 1 into files of `shard` samples each, yielding every file that is there.

    Sample i has the seed `seed` + i: it is the same whatever the number of processes, and whatever was drawn before a
    stop. Files that are there are kept; a file is whole or not there. In each is one tensor "samples", (shard, *):
    raw values, if the model has the scaling of its data.

    Args:
        model: to sample from. num: how many samples in all.
        folder: for samples-00000.safetensors, samples-00001.safetensors, ...
        shape: of one sample, that of the model's moments if None. shard: samples a file. batch: how many are drawn at
            once, the whole file if None. seed: the seeds must lie below 2⁶³.
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
    _checks.kind("model", model, Model, "Model(net, VP())")
    folder = _checks.path("folder", folder)
    num, shard = _checks.count("num", num), _checks.count("shard", shard)
    processes, process = _checks.count("processes", processes), _checks.count("process", process, 0)
    if process >= processes:
        raise ValueError(f"process must be one of 0..{processes - 1}, got {process}")
    if shape is None:
        if model.moments is None or not isinstance(model.moments[0], Tensor):
            raise ValueError("shape must be given for a model without moments, such as shape=(1, 28, 28)")
        shape = tuple(model.moments[0].shape)
    if not isinstance(shape, tuple) or shape:  # () for numbers
        shape = _checks.shape("shape", (1, *_checks.shape("shape", shape)))[1:]
    if _checks.count("seed", seed, 0) + num > 2**63:
        raise ValueError(f"seed must leave room for {num} more below 2**63, got {seed}")
    batch = shard if batch is None else _checks.count("batch", batch)
    return _shards(model, num, folder, shape, shard, batch, seed, processes, process, options)


def _shards(
    model: Model, num: int, folder: Path, shape: tuple[int, ...], shard: int, batch: int, seed: int, processes: int,
    process: int, options: dict[str, Any],
) -> Iterator[Path]:  # fmt: skip
    drawn_by = fingerprint(model, options)
    sweep(folder)
    for i in count(process, processes):
        first, last = i * shard, min((i + 1) * shard, num)
        if first >= num:
            return
        path = folder / f"samples-{i:05d}.safetensors"
        about = {"first": str(first), "count": str(last - first), "seed": str(seed), "by": drawn_by}
        if not (path.exists() and _is_done(path, about)):
            parts = [range(a, min(a + batch, last)) for a in range(first, last, batch)]
            seeds = [range(seed + part.start, seed + part.stop) for part in parts]
            raw = torch.cat([_raw(model, sample(model, (len(s), *shape), seeds=s, **options)) for s in seeds])
            with whole(path) as draft:
                save_file({"samples": raw.contiguous()}, draft, about)
        yield path


def _raw(model: Model, x: Tensor) -> Tensor:
    """Samples as the data were, on the host; levels as bytes where they fit."""
    if model.scaling is None:
        return x.detach().cpu()
    raw = model.scaling.inverse(x).detach().cpu()
    return raw.to(torch.uint8) if (model.scaling.levels or 257) <= 256 else raw


def _is_done(path: Path, about: dict[str, str]) -> bool:
    """Whether a file has these samples; False for the beginning of them, as of an earlier call for fewer."""
    try:
        with safe_open(path, framework="pt") as file:
            had = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is no file of samples ({error}); remove it") from error
    differ = [name for name in about if had.get(name) != about[name]]
    if differ == ["count"] and had.get("count", "").isdigit() and int(had["count"]) < int(about["count"]):
        return False
    if differ:
        raise ValueError(
            f"{path} holds other samples than these (other {', '.join(differ)}); name another folder, or remove it"
        )
    return True

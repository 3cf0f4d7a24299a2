"""Samples in files as one call."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tqdm import tqdm

from scoresde import guidance, plots
from scoresde.process import Process
from scoresde.runs.folder import MakeNet, describe, device_of, home_of, made_for, opened, pictured, said_of
from scoresde.runs.train import DRAWN
from scoresde.samplers import Adams, Sampler, sample_shards

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total} [{elapsed}<{remaining}]"


def sample(
    run: Path, num: int = 1000, out: Path | None = None, sampler: Sampler | None = None, steps: int = 20,
    label: int | None = None, weight: float = 1.0, std: float | None = None, shape: tuple[int, ...] | None = None,
    process: Process | None = None, net: MakeNet | None = None, seed: int = 0, shard: int = 1000,
    batch: int | None = None, device: str = "auto", quiet: bool = False, config: str = "",
) -> list[Path]:  # fmt: skip
    """Draw samples from a trained model into files, or go on where an earlier call with the same folder left off.

    Started by torchrun (torchrun --nproc_per_node 2 -m -- scoresde sample RUN ...), the processes share the files;
    sample i is the same whatever their number.

    Args:
        run: the folder of a training, or a file that `save` wrote.
        num: how many samples.
        out: the folder for samples-00000.safetensors, ...; RUN/samples, or RUN/samples-label7-weight3, if not given.
        sampler: Adams if not given.
        steps: of the sampler.
        label: the class to draw from, for a network trained with --conditional.
        weight: of classifier-free guidance; 1 is the class alone, 0 none.
        std: relative width of the average of weights, of a run trained with --posthoc.
        shape: of one sample, such as 1 28 28, for a model that does not tell.
        process: your own, if the run has one.
        net: your own, if the run has one.
        seed: sample i has the seed SEED + i.
        shard: samples a file.
        batch: samples drawn at once, the whole file if not given.
        device: auto, cpu, cuda, ...
        quiet: no progress bar.
        config: what config.yaml will say.
    """
    config = config or said_of(locals())
    rank, ranks = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    where = device_of(device)
    model = opened(run, where, std, process, net)
    network = model.net
    name = "samples"
    if label is not None:
        name += f"-label{label}"
        model = model.given(label=torch.tensor(label, device=where))
    if weight != 1.0 and label is not None:
        name += f"-weight{weight:g}"
        model = guidance.classifier_free(model, weight)
    elif weight != 1.0:
        raise ValueError(f"weight is of guidance towards a class; add --label 7, say, got --weight {weight:g} alone")
    folder = out or home_of(run) / name
    if shape is None and model.moments is None:
        shape = tuple(made_for(run, {}).get("shape", ()))
        if not shape:
            raise ValueError("shape must be given for this model, such as --shape 1 28 28")
    paths = sample_shards(
        model, num, folder, shape=shape, shard=shard, batch=batch, seed=seed, processes=ranks, process=rank,
        sampler=sampler or Adams(), steps=steps,
    )  # fmt: skip
    total, done = sum(min(shard, num - i * shard) for i in range(rank, -(-num // shard), ranks)), []
    off = quiet or rank > 0 or None
    with tqdm(total=total, desc="sampling", delay=2, disable=off, bar_format=BAR) as bar:
        hook = network.register_forward_hook(lambda _, x, __: _advance(bar, len(x[0]) / steps, len(done), shard))
        try:
            for path in paths:
                done.append(path)
                bar.update(min(total, len(done) * shard) - bar.n)
        finally:
            hook.remove()
    if rank == 0:
        describe(folder, config)
        first = load_file(done[0])["samples"]
        few = {"samples": first[: DRAWN.get(first.ndim - 1, 64)]}
        levels = model.scaling.levels if model.scaling else None
        pictured(lambda: plots.samples(few, folder / "samples.png", levels), quiet)
    return done


def _advance(bar: Any, share: float, files: int, shard: int) -> None:
    """A call of the network is about a step of its samples; no further than the file that is being made."""
    bar.update(min(share, (files + 1) * shard - bar.n, bar.total - bar.n))

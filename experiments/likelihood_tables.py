"""Held-out log-density of tables and image patches: scoresde beside a Gaussian, a mixture by EM and a kernel density.

    python experiments/likelihood_tables.py [--data wine "breast cancer" patches] [--device cpu] [--quick]

Wine and breast cancer are scikit-learn's, standardised by what is trained on, every row held out once (k folds).
Patches are 8 × 8 pixels of scikit-image's photographs (the extra `bench`), dequantized, a quarter held out.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from density_baselines import BANDWIDTHS, MIXTURES, Density, Fitted, baselines, fit_mixture
from likelihood_training import fitting
from sklearn import datasets
from torch import Tensor, nn

from scoresde import EDM, Model, data, log_prob, networks, targets
from scoresde.estimator import ScoreDensity
from scoresde.training.fit import moments

FLOOR = 1e-4
"""Of the variances of the mixture that the patches' network begins as, in units of the mean variance."""

TOLERANCE = 0.01
"""Of log_prob for patches, in nats a dimension."""

PHOTOGRAPHS = ("camera", "coins", "astronaut", "chelsea", "coffee", "brick", "grass", "gravel")


def patches(rows: int = 10_000, side: int = 8) -> np.ndarray:
    """Some of the non-overlapping patches of the photographs in grey, (N, 64), dequantized into [−1, 1]."""
    import skimage.data
    from skimage.color import rgb2gray

    found = []
    for name in PHOTOGRAPHS:
        image = getattr(skimage.data, name)()
        grey = np.rint(255 * rgb2gray(image)) if image.ndim == 3 else image
        levels = torch.from_numpy(np.asarray(grey, dtype=np.int64))
        found.append(levels.unfold(0, side, side).unfold(1, side, side).reshape(-1, side * side))
    levels = torch.cat(found)
    levels = levels[torch.randperm(len(levels), generator=torch.Generator().manual_seed(0))[:rows]]
    return data.dequantize(levels, 256, generator=torch.Generator().manual_seed(0)).double().numpy()


class Corrected(nn.Module):
    """Noise as a mixture Σ w_k N(m_k, U_k S_k² U_kᵀ) has it, plus a network's correction F where that is uncertain.

    With y = x/α, ρ = σ/α, r_k the responsibilities at y, h_k² = s_k² + ρ² and a_k = U_kᵀ(y − m_k):

        ε̂ = Σ_k r_k U_k [ρ a_k/h_k² + (s_k/h_k) U_kᵀ F(u, log ρ)],      u = Σ_k r_k U_k a_k/h_k,

    where u, y as the mixture whitens it, is of unit size whatever the contrast. At first F = 0.
    """

    def __init__(self, net: nn.Module, process: EDM, base: targets.GaussianMixture) -> None:
        super().__init__()
        self.net, self.process, self.base = net, process, base
        s = base.variances.sqrt()
        self.range = (math.log(0.1 * float(s.min())), math.log(10 * float(s.max())))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        base, wide = self.base, t.double()
        rho = (self.process.sigma(wide) / self.process.alpha(wide))[:, None, None]
        centred = x.double()[:, None] / self.process.alpha(wide)[:, None, None] - base.means
        along = torch.einsum("bki,kij->bkj", centred, base.axes)
        total = base.variances + rho**2
        share = (base.weights.log() - 0.5 * (along**2 / total + total.log()).sum(-1)).softmax(1)
        gain = base.variances.sqrt() / total.sqrt()

        def back(parts: Tensor) -> Tensor:
            return torch.einsum("bk,bkj,kij->bi", share, parts, base.axes)

        white = back(along / total.sqrt()).to(x.dtype)
        first, last = self.range
        place = ((rho[:, 0, 0].log() - first) / (last - first)).clamp(0, 1)
        change = torch.einsum("bi,kij->bkj", self.net(white, place.to(x.dtype)).double(), base.axes)
        return back(rho * along / total + gain * change).to(x.dtype)


def scored(
    x: np.ndarray, steps: int, width: int, components: int = 10, device: str = "cpu", batch: int = 256, lr: float = 1e-3
) -> Density:
    """The log-density of a network trained on x: (N, D), that begins as the mixture fitted by EM."""
    torch.manual_seed(0)
    points, source = torch.from_numpy(x).float().to(device), torch.Generator(device).manual_seed(0)
    base = targets.GaussianMixture(*(torch.from_numpy(v) for v in fit_mixture(x, components, "full", FLOOR))).to(device)
    process = EDM(0.05 * float(base.variances.min().sqrt()), 80.0)
    net = Corrected(networks.MLP(x.shape[1], width), process, base).to(device)
    model = Model(net, process, "noise", moments(points))
    least, most = (math.exp(end) for end in net.range)
    draw = lambda n, g: points[torch.randint(len(points), (n,), generator=g, device=points.device)]  # noqa: E731
    for _, best in fitting(model, draw, steps, least, most, batch=batch, lr=lr, generator=source):
        model = best
    model.net.eval().requires_grad_(False)  # pyright: ignore[reportAttributeAccessIssue]

    def density(y: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(y).float().to(device).split(500)
        tolerance = TOLERANCE * y.shape[1]
        return torch.cat([log_prob(model, part, tolerance=tolerance).value for part in parts]).double().cpu().numpy()

    return density


@dataclass(frozen=True)
class Table:
    """A data set, how it is split, and what the mixture is chosen from."""

    load: Callable[[], np.ndarray]
    folds: int
    held_out: int | None = None
    standardise: bool = True
    mixtures: tuple[Any, ...] = MIXTURES
    bandwidths: tuple[float, ...] = BANDWIDTHS

    def splits(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(train, held-out) rows; all folds, or the first where only some rows are held out."""
        x = self.load()
        parts = np.array_split(np.random.default_rng(0).permutation(len(x)), self.folds)
        for part in parts if self.held_out is None else parts[:1]:
            train, test = np.delete(x, part, 0), x[part[: self.held_out]]
            mean, scale = (train.mean(0), train.std(0)) if self.standardise else (0.0, 1.0)
            yield (train - mean) / scale, (test - mean) / scale


def sklearn_table(name: str) -> Callable[[], np.ndarray]:
    return lambda: getattr(datasets, f"load_{name}")().data


TABLES = {
    # name: data, folds (a share of 1/folds is held out), rows held out at most
    "wine": Table(sklearn_table("wine"), 5),
    "breast cancer": Table(sklearn_table("breast_cancer"), 3),
    "patches": Table(
        patches, 4, 300, False, tuple(product((5, 10, 20, 40), ("full",), (1e-4,))), BANDWIDTHS[::3],
    ),
}  # fmt: skip


def table(name: str, options: argparse.Namespace) -> list[tuple[str, np.ndarray]]:
    """Print held-out log-densities; returns each row's name and values."""
    recipe = TABLES[name]
    if options.quick:
        recipe = replace(recipe, held_out=20, mixtures=recipe.mixtures[:2], bandwidths=recipe.bandwidths[::5])
    found: dict[str, list[np.ndarray]] = {}
    settings: dict[str, list[str]] = {}
    start, sizes = time.process_time(), []
    for train, test in recipe.splits():
        sizes.append((len(train), len(test)))
        if name == "patches":
            own = scored(train, 30 if options.quick else 3000, 256, device=options.device)
        else:
            estimator = ScoreDensity(random_state=0, **({"max_iter": 40} if options.quick else {}))
            own = estimator.fit(train).score_samples
        for fitted in (
            *baselines(train, recipe.mixtures, recipe.bandwidths), Fitted("scoresde", "", own)
        ):  # fmt: skip
            found.setdefault(fitted.name, []).append(fitted.log_prob(test))
            settings.setdefault(fitted.name, []).append(fitted.setting)
    values = {key: np.concatenate(parts) for key, parts in found.items()}
    rivals = [key for key in values if key != "scoresde"]
    best = max(rivals, key=lambda key: values[key].mean())
    (trained, _), rows = sizes[0], len(values["scoresde"])
    width = train.shape[1]
    print(f"{name}: {width} numbers a row, {trained} to train, {rows} held out; nats a row, gain over {best}")
    print(f"{'density':<24}{'log-density':>19}{'gain':>19}{'s.e.s':>7}  chosen")
    for key, each in values.items():
        text = f"{key:<24}{each.mean():>10.3f} ±{each.std() / math.sqrt(rows):7.3f}"
        if key == "scoresde":
            gain = each - values[best]
            error = gain.std() / math.sqrt(rows)
            text += f"{gain.mean():>10.3f} ±{error:7.3f}{gain.mean() / error:>7.1f}"
        else:
            text += f"{'':>26}  {settings[key][0]}"
        print(text)
    print(f"  {(time.process_time() - start) / 60:.1f} minutes", flush=True)
    return list(values.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="a few steps and rows, to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.data:
        table(name, options)
        print()


if __name__ == "__main__":
    main()

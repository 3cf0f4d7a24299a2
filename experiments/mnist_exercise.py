"""The classic exercise on 5,000 MNIST digits: DDPM by an MLP, DDIM in a twentieth of the calls, and guidance.

A multilayer perceptron with sinusoidal time embedding learns the noise of DDPM's chain, linear β and T = 1000, by
L_simple: the plain squared error at uniform k = 1, ..., T, with Adam at 1e-3. It is given the class, but for 10 % of
the images, so that one network draws any digit (label −1) and a given one, and classifier-free guidance has its two
halves. Upper row: real digits, any digit by the ancestral sampler, and by DDIM; lower row: the digits asked for, from
the same starts, by weight. A support vector machine, trained on the same real images, says how many it takes for what
was asked for. Spread is the variance within a class, real digits' = 1.

How good are they? A given digit can be read, with guidance nearly always, and any digit now and then; strokes are
thick, with grains around them, and vary less than real ones. An MLP sees no neighbours, and this one saw the data 28
times. With PIXELS = False it is the bare MLP, of which many digits come out on a grey or black page: errors in how
bright the page is count little in L_simple, and much at the noise end, where x₀ is x − σ ε over an α of 0.006. So what
it learns here is added to the best that each pixel alone says of its noise, by the pixel's mean and variance. (Nor is
the rest to the letter: `fit` lets Adam's rate rise and fall, clips gradients and averages the weights.)

    python experiments/mnist_exercise.py [--out runs/figures] [--device cpu] [--quick]

References: Ho et al. (2020), arXiv 2006.11239 (the chain, eq. 14, algorithm 2); Song et al. (2021), 2010.02502 (DDIM);
Ho and Salimans (2022), 2207.12598 (guidance).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lesson
import torch
from matplotlib.colors import LinearSegmentedColormap
from sklearn.svm import SVC
from torch import Tensor, nn

from scoresde import Count, Discrete, Model, Process, data, ddpm, fit, guidance, loss, metrics, networks, sample
from scoresde.plots import Theme, canvas
from scoresde.samplers import DDIM, DDPM, Sampler

STEPS, BATCH, LR, WIDTH, DROP, EMA = 1000, 128, 1e-3, 896, 0.1, 0.995
CHAIN, SHORT, PIXELS = 1000, 50, True
CLASSES, EACH, FREE, HELD = 10, 30, 40, 500
WEIGHTS = (1.0, 2.0, 4.0)
SHAPE, SHOWN = (1, 28, 28), 4  # of an image; rows of them in a panel


@dataclass(frozen=True)
class Run:
    """Digits of no given class: their levels (N, 28, 28), the network's calls, seconds, distance to real ones."""

    levels: Tensor
    calls: int
    seconds: float
    law: metrics.Estimate


@dataclass(frozen=True)
class Guided:
    """Digits of every class, (EACH, CLASSES, 28, 28): the share that is right, the spread, and standard errors."""

    levels: Tensor
    right: tuple[float, float]
    spread: tuple[float, float]


@dataclass(frozen=True)
class Result:
    losses: tuple[float, float]
    real: Tensor
    held: tuple[float, float]
    ddpm: Run
    ddim: Run
    guided: dict[float, Guided]


class OnPixels(nn.Module):
    """A network, added to the best estimate of the noise from each pixel alone: σ (x − α m)/(α² v + σ²)."""

    mean: Tensor
    variance: Tensor

    def __init__(self, net: nn.Module, process: Process, x: Tensor) -> None:
        super().__init__()
        self.net, self.process = net, process
        self.register_buffer("mean", x.mean(0))
        self.register_buffer("variance", x.var(0))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        alpha, sigma = (c.reshape(-1, *[1] * (x.ndim - 1)) for c in (self.process.alpha(t), self.process.sigma(t)))
        alone = sigma * (x - alpha * self.mean) / (alpha.square() * self.variance + sigma.square())
        return alone + self.net(x, t, label)


def on_the_chain(process: Process, u: Tensor) -> Tensor:
    """The chain's own times, each as often: k/T for k = 1, ..., T."""
    steps = process.steps if isinstance(process, Discrete) else CHAIN
    return ((u * steps).floor() + 1).clamp_max(steps) / steps


def simple(model: Model, held: Tensor, labels: Tensor) -> float:
    """L_simple on held-out digits, at times spread over the chain."""
    times = on_the_chain(model.process, (torch.arange(4 * len(held)) * 0.6180339887) % 1)
    with torch.no_grad():
        found = loss(model, held.repeat(4, 1, 1, 1), times, generator=torch.Generator().manual_seed(3),
                     label=labels.repeat(4))  # fmt: skip
    return float(found.mean())


def trained(rows: data.Data, held: tuple[Tensor, Tensor], steps: int, width: int) -> tuple[Model, tuple[float, float]]:
    """The model with averaged weights, and L_simple on held-out digits before (a network of zero) and after."""
    torch.manual_seed(0)
    process = ddpm(CHAIN)
    net: nn.Module = networks.MLP(rows.shape, width=width, classes=CLASSES)
    if PIXELS:
        net = OnPixels(net, process, rows.batch(torch.arange(len(rows)), torch.Generator().manual_seed(1))[0])
    model = Model(net.to(held[0].device), process, "noise")
    before = simple(model, *held)
    *_, last = fit(
        model, rows, steps, batch_size=BATCH, lr=LR, ema=EMA, times=on_the_chain, conditional=True, drop=DROP,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    return last.model, (before, simple(last.model, *held))


def levels(model: Model, x: Tensor) -> Tensor:
    """Samples as levels 0..255, (N, 28, 28)."""
    assert model.scaling is not None
    return model.scaling.inverse(x)[:, 0].cpu()


def free(model: Model, sampler: Sampler, steps: int, n: int, real: Tensor, other: Tensor) -> Run:
    count = Count()
    alone = model.wrap(count).given(label=torch.tensor(-1))
    begun = time.perf_counter()
    x = sample(alone, (n, *real.shape[1:]), sampler, steps, generator=torch.Generator().manual_seed(1))
    seconds = time.perf_counter() - begun
    law = metrics.measure("energy_distance", x.cpu().double(), real.double(), other.double())
    return Run(levels(model, x), count.calls, seconds, law)


def share(right: Tensor) -> tuple[float, float]:
    """A fraction and its standard error, which counts one more of each kind and so is never zero."""
    n, value = len(right), float(right.double().mean())
    p = (n * value + 1) / (n + 2)
    return value, math.sqrt(p * (1 - p) / n)


def taken_for(judge: SVC, images: Tensor) -> Tensor:
    return torch.from_numpy(judge.predict(images.flatten(1).double().numpy() / 255))


def within(images: Tensor) -> Tensor:
    """Variance within each class of images (N, K, 28, 28), all pixels together: (K,)."""
    return images.double().var(0).flatten(1).sum(1)


def guided(model: Model, weight: float, each: int, judge: SVC, real: Tensor) -> Guided:
    label = torch.arange(CLASSES).repeat(each)
    some = guidance.classifier_free(model.given(label=label), weight)
    x = sample(some, (len(label), *SHAPE), DDIM(), SHORT, generator=torch.Generator().manual_seed(2))
    images = levels(model, x)
    spread = within(images.unflatten(0, (each, CLASSES))) / real
    return Guided(
        images.unflatten(0, (each, CLASSES)), share(taken_for(judge, images) == label),
        (float(spread.mean()), float(spread.std()) / math.sqrt(CLASSES)),
    )  # fmt: skip


def measure(quick: bool, device: str) -> Result:
    train, held = data.load("mnist5k").split(HELD)
    steps, width, each, n = (STEPS // 8, WIDTH // 6, 10, 16) if quick else (STEPS, WIDTH, EACH, FREE)
    if quick:
        train = train.split(1000)[1]
    assert train.labels is not None and held.labels is not None
    sets = [rows.batch(torch.arange(len(rows)), torch.Generator().manual_seed(4))[0] for rows in (held, train)]
    model, losses = trained(train, (sets[0].to(device), held.labels.to(device)), steps, width)
    real, new = (rows.raw(torch.arange(len(rows)))[:, 0] for rows in (train, held))
    judge = SVC(C=10.0).fit(real.flatten(1).double().numpy() / 255, train.labels.numpy())
    variance = torch.stack([within(real[train.labels == k][:, None])[0] for k in range(CLASSES)])
    shown = torch.stack([new[held.labels == k][:SHOWN] for k in range(CLASSES)], 1)
    return Result(
        losses, shown, share(taken_for(judge, new) == held.labels),
        free(model, DDPM(), CHAIN, n, sets[0], sets[1][:HELD]), free(model, DDIM(), SHORT, n, sets[0], sets[1][:HELD]),
        {weight: guided(model, weight, each, judge, variance) for weight in WEIGHTS},
    )  # fmt: skip


def table(result: Result) -> str:
    runs = [
        [name, run.calls, f"{run.seconds:.2f}", str(run.law)]
        for name, run in (("DDPM", result.ddpm), ("DDIM", result.ddim))
    ]
    rows = [["held-out real digits", "{:.3f} ± {:.3f}".format(*result.held), "1"]]
    for weight, some in result.guided.items():
        right, spread = ("{:.3f} ± {:.3f}".format(*pair) for pair in (some.right, some.spread))
        rows.append([f"guidance of weight {weight:g}", right, spread])
    few, many = result.ddim, result.ddpm
    calls, seconds = many.calls / few.calls, many.seconds / few.seconds
    weak, strong = result.guided[WEIGHTS[0]], result.guided[WEIGHTS[-1]]
    apart = abs(few.law.value - many.law.value) / math.hypot(few.law.standard_error, many.law.standard_error)
    return "\n".join([
        f"L_simple on held-out digits: {result.losses[0]:.4f} before training, {result.losses[1]:.4f} after",
        "",
        f"{len(many.levels)} digits of no given class",
        lesson.rows(("", "calls", "seconds", "energy distance to real digits"), runs),
        "",
        f"{strong.levels.shape[0] * CLASSES} digits, each class as often, by DDIM in {SHORT} steps",
        lesson.rows(("", "taken for the class asked for", "spread"), rows),
        "",
        f"DDIM takes 1/{calls:.0f} of DDPM's calls and 1/{seconds:.0f} of its time;",
        f"their distances to real digits are {apart:.1f} standard errors apart.",
        f"Guidance of weight {WEIGHTS[-1]:g} takes the digits that are what was asked for from {weak.right[0]:.1%} to "
        f"{strong.right[0]:.1%},",
        f"and the variance within a class from {weak.spread[0]:.2f} to {strong.spread[0]:.2f} of real digits'.",
    ])  # fmt: skip


def tiles(images: Tensor) -> Tensor:
    """(R, C, H, W) as one picture with a margin between them, in 0..1."""
    framed = nn.functional.pad(images.double() / 255, (2, 2, 2, 2))
    return framed.permute(0, 2, 1, 3).reshape(framed.shape[0] * framed.shape[2], -1)


def draw(result: Result, theme: Theme) -> Any:
    figure = canvas(9.0, 3.3, theme)
    shades = LinearSegmentedColormap.from_list("page", [theme.paper, theme.ink])
    panels = {"real digits, held out": result.real}
    for name, run in (("DDPM", result.ddpm), ("DDIM", result.ddim)):
        grid = run.levels[: CLASSES * min(SHOWN, len(run.levels) // CLASSES)].unflatten(0, (-1, CLASSES))
        panels[f"any digit, {name}: {run.calls} calls, {run.seconds:.2g} s"] = grid
    for weight, some in result.guided.items():
        right, error = some.right
        panels[f"0 to 9, weight {weight:g}: {100 * right:.1f} ± {100 * error:.1f} % right"] = some.levels[:SHOWN]
    for axis, (title, images) in zip(figure.subplots(2, 3).ravel(), panels.items()):
        axis.imshow(tiles(images).numpy(), cmap=shades, vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(title, fontsize=9, color=theme.ink)
        axis.set_axis_off()
    return figure


if __name__ == "__main__":
    lesson.main(Path(__file__).stem, __doc__, measure, table, draw)

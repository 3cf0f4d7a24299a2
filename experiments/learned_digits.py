"""Pictures by learned networks: a U-Net on MNIST-5k, a DiT and an MLP on the 8 × 8 digits, each drawn class by class.

Each is trained with its labels, and asked for as many samples of every class. A support vector machine, trained on the
same real images, says how many of them it takes for what was asked; its accuracy on held-out real images is beside. So
is the sliced Wasserstein distance to the held-out images, with its floor: real images in place of the samples. A
training that was stopped goes on where it was.

    python experiments/learned_digits.py [--only unet] [--out runs/learned_digits] [--figures docs/figures]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from sklearn.svm import SVC
from torch import Tensor, nn
from tqdm import tqdm

from scoresde import VP, Model, data, fit, metrics, networks, plots, sample

CLASSES, EACH, SHOWN = 10, 50, 6


Net = Callable[[tuple[int, ...]], nn.Module]


@dataclass(frozen=True)
class Recipe:
    """What is trained, on what, and for how long."""

    data: str
    net: Net
    steps: int
    batch: int
    lr: float


RECIPES = {
    # name: data, network, steps, batch, rate
    "unet": Recipe("mnist5k", partial(networks.UNet, width=24, multipliers=(1, 2, 3), classes=10), 3000, 64, 2e-3),
    "dit": Recipe("digits", partial(networks.DiT, patch=2, width=96, blocks=3, classes=10), 4000, 128, 1e-3),
    "mlp": Recipe("digits", partial(networks.MLP, width=256, classes=10, highest=32.0), 6000, 128, 2e-3),
}


def trained(recipe: Recipe, rows: data.Data, folder: Path, device: str) -> Model:
    """The model with averaged weights, from the newest checkpoint on."""
    torch.manual_seed(0)
    some = rows.batch(torch.arange(1000), torch.Generator().manual_seed(0))[0]
    net = networks.Scaled(recipe.net(rows.shape), VP(), float(some.std())).to(device)
    records = fit(
        Model(net, VP(), "v"), rows, recipe.steps, batch_size=recipe.batch, lr=recipe.lr, conditional=True,
        drop=0.0, checkpoints=folder, every=250, generator=torch.Generator(device).manual_seed(0),
    )  # fmt: skip
    model = None
    with tqdm(records, folder.name, recipe.steps, mininterval=5.0, disable=None) as bar:
        for record in bar:
            bar.set_postfix(loss=f"{float(record.loss):.3f}", refresh=False)
            model = record.model
    assert model is not None
    return model


def drawn(model: Model, shape: tuple[int, ...], device: str) -> tuple[Tensor, Tensor]:
    """EACH samples of every class as raw levels, and what was asked for."""
    labels = torch.arange(CLASSES).repeat(EACH).to(device)
    given = model.given(label=labels)
    x = sample(given, (len(labels), *shape), steps=30, seeds=range(len(labels)))
    return model.scaling.inverse(x).cpu(), labels.cpu()  # pyright: ignore[reportOptionalMemberAccess]


def judged(train: data.Data, held: data.Data, samples: Tensor, labels: Tensor) -> tuple[float, float, float, float]:
    """The judge's accuracy on samples and on held-out images; the distance to held-out images, and its floor."""
    levels = train.scaling.levels or 1
    real, new = (rows.raw(torch.arange(len(rows))) for rows in (train, held))
    judge = SVC(C=10.0).fit(real.flatten(1).numpy() / levels, train.labels.numpy())  # pyright: ignore
    pairs = ((samples, labels), (new, held.labels))
    right = [float(judge.score(x.flatten(1).numpy() / levels, y.numpy())) for x, y in pairs]  # pyright: ignore
    balanced = torch.cat([(train.labels == k).nonzero()[:EACH, 0] for k in range(CLASSES)])
    far = [metrics.sliced_wasserstein(x.double() / levels, new.double() / levels) for x in (samples, real[balanced])]
    return right[0], right[1], far[0], far[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--out", type=Path, default=Path("runs/learned_digits"))
    parser.add_argument("--figures", type=Path, default=Path("docs/figures"))
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    print(f"{'network':<9}{'data':<10}{'weights':>9}{'minutes':>9}{'right':>8}{'real':>8}{'sliced W':>10}{'floor':>8}")
    for name in options.only:
        recipe = replace(RECIPES[name], steps=options.steps or RECIPES[name].steps)
        train, held = data.load(recipe.data).split(0.1)
        begun = time.monotonic()
        model = trained(recipe, train, options.out / name, options.device)
        minutes = (time.monotonic() - begun) / 60
        samples, labels = drawn(model, train.shape, options.device)
        right, real, far, floor = judged(train, held, samples, labels)
        size = sum(p.numel() for p in model.net.parameters())  # pyright: ignore[reportAttributeAccessIssue]
        judgement = f"{right:>8.1%}{real:>8.1%}{far:>10.4f}{floor:>8.4f}"
        print(f"{name:<9}{recipe.data:<10}{size:>9,}{minutes:>9.1f}{judgement}", flush=True)
        grid = {f"sampled {i + 1}": samples[i * CLASSES : (i + 1) * CLASSES, 0] for i in range(SHOWN)}
        first = torch.stack([held.raw((held.labels == k).nonzero()[:1, 0])[0, 0] for k in range(CLASSES)])
        options.figures.mkdir(parents=True, exist_ok=True)
        plots.images(
            {"real": first, **grid}, options.figures / f"learned_{name}.png", 0.0, (train.scaling.levels or 2) - 1.0,
            title=f"{recipe.data}: {type(recipe.net(train.shape)).__name__}, asked for 0 to 9",
        )  # fmt: skip


if __name__ == "__main__":
    main()

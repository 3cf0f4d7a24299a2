"""Features in which to measure: a small network trained on the data, or Inception."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from scoresde.metrics import _checks

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"


class Features(nn.Module):
    """A frozen network, x (B, *) → (B, F), scaled so that the features of the data have variance 1 in the mean.

    `fit_features` makes it, and notes accuracy: of its task on samples held out; chance: the accuracy of the most
    frequent answer there; task: "label", or "cluster" where the data had no labels.

    Args:
        shape: of a sample. width: F. classes: of the task.
    Raises:
        ValueError: in a call, x of another shape.

    Example:
        >>> import torch
        >>> from scoresde.metrics import fit_features
        >>> x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
        >>> features = fit_features(x, steps=5)
        >>> features.task, round(float(features(x).var(0).mean()), 4)
        ('cluster', 1.0)
    """

    def __init__(self, shape: tuple[int, ...], width: int, classes: int) -> None:
        super().__init__()
        self.shape, self.accuracy, self.chance = shape, math.nan, math.nan
        self.task: Literal["label", "cluster"] = "label"
        self.pools, sizes = 0, list(shape[1:])
        while len(sizes) > 1 and max(sizes) > 64:
            self.pools, sizes = self.pools + 1, [(n + 1) // 2 for n in sizes]
        layers: list[nn.Module] = []
        channels = shape[0]
        if 2 <= len(shape) <= 4:
            conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(shape) - 2]
            while max(sizes) > 8 or not layers:
                wider = 32 if not layers else 64
                layers += [nn.utils.skip_init(conv, channels, wider, 3, stride=2, padding=1), nn.SiLU()]
                channels, sizes = wider, [(n + 1) // 2 for n in sizes]
        else:
            channels, sizes = math.prod(shape), []
            layers += [nn.Flatten(), nn.utils.skip_init(nn.Linear, channels, 128), nn.SiLU()]
            channels = 128
        flat = channels * math.prod(sizes)
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.utils.skip_init(nn.Linear, flat, width), nn.SiLU())
        self.head = nn.utils.skip_init(nn.Linear, width, classes)
        self.mean: Tensor
        self.deviation: Tensor
        self.unit: Tensor
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))
        self.register_buffer("unit", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"x must have shape (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        x = (x.to(next(self.parameters())) - self.mean) / self.deviation
        for _ in range(self.pools):
            x = (functional.avg_pool2d if x.ndim == 4 else functional.avg_pool3d)(x, 2, ceil_mode=True)
        return self.body(x) / self.unit


def fit_features(
    x: Tensor,
    labels: Tensor | None = None,
    *,
    width: int = 64,
    steps: int = 500,
    generator: torch.Generator | None = None,
) -> Features:
    """A small network trained on the data in under a minute on one core, frozen, as features for metrics.

    Convolutions for images (C, H, W) and waveforms (C, L), a perceptron for points (D,); the features are its last
    hidden layer. It learns the labels; without them, which of ten clusters (k-means of the standardised data) a sample
    belongs to. A fifth of the data is held out for `.accuracy`.

    Args:
        x: (N, *), real data. labels: (N,) int64, of at least two classes, or None. width: F. steps: of AdamW, with 128
            samples each. generator: of the split, the weights and the batches (a fixed one if None).
    Raises:
        ValueError: fewer than 50 samples, labels that do not fit, numbers that are not finite.

    Example:
        >>> import torch
        >>> labels = torch.arange(200) % 2
        >>> x = 4.0 * labels[:, None] + torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
        >>> features = fit_features(x, labels, steps=50)
        >>> features(x).shape, features.accuracy > 0.9, features.chance < 0.7
        (torch.Size([200, 64]), True, True)

    Reference: Caron et al. (2018), arXiv 1807.05520 (clusters as labels).
    """
    _checks.one_set("x", x, 50)
    _checks.whole("width", width)
    _checks.whole("steps", steps)
    source, data = _checks.source(generator), x.detach().float()
    order = torch.randperm(len(x), generator=source, device=source.device).to(x.device)
    held, seen = order[: len(x) // 5], order[len(x) // 5 :]
    mean, deviation = data[seen].mean(0), data[seen].std(0)
    deviation = deviation.clamp_min(1e-3 * float(deviation.max()) or 1.0)  # pixels that never change stay small
    data = (data - mean) / deviation
    target = _clusters(data, seen, source) if labels is None else _labels(labels, len(x)).to(x.device)
    features = Features(tuple(x.shape[1:]), width, int(target.max()) + 1)
    _initialise(features, source)
    features.to(x.device)
    _train(features, data[seen], target[seen], steps, source)
    with torch.no_grad():
        out = torch.cat([features(part) for part in data.split(256)])
        features.accuracy = float((features.head(out[held]).argmax(1) == target[held]).double().mean())
        features.chance = float(target[held].bincount().max() / len(held))
        features.unit = out.var(0).mean().sqrt().clamp_min(1e-30)
    features.mean, features.deviation = mean, deviation
    features.task = "cluster" if labels is None else "label"
    return features.requires_grad_(False).eval()


def inception_features(
    weights: str | Path | None = None, low: float = -1.0, high: float = 1.0
) -> Callable[[Tensor], Tensor]:
    """Inception's 2048 features of images (B, 1 or 3, H, W), as torchmetrics' FID takes them; nothing is downloaded.

    Args:
        weights: the file of torch-fidelity's weights; None for its place in torch.hub's folder. low, high: what stands
            for black and white in the images.
    Raises:
        ImportError: without torchmetrics and torch-fidelity. FileNotFoundError: without the weights.

    Reference: Heusel et al. (2017), arXiv 1706.08500.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS if weights is None else Path(weights)
    if not low < high:
        raise ValueError(f"low must be below high, got {low!r} and {high!r}")
    try:
        import torch_fidelity  # noqa: F401  # pyright: ignore[reportMissingImports]
        from torchmetrics.image.fid import NoTrainInceptionV3  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            f"Inception's features need torchmetrics and torch-fidelity ({error}); "
            "write pip install torchmetrics torch-fidelity, or use fit_features(data)"
        ) from error
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights of Inception at {path}; put {WEIGHTS} of torch-fidelity's releases (v0.2.0) there, "
            "or write inception_features(weights=...), or use fit_features(data)"
        )
    with torch.random.fork_rng():  # its layers draw weights before they load them
        net = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path))

    def features(x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(f"x must be images, (B, 3, H, W) or (B, 1, H, W), got {tuple(x.shape)}")
        levels = ((x - low) * (255 / (high - low))).round().clamp(0, 255).to(torch.uint8)
        net.to(x.device)
        return net(levels.expand(-1, 3, -1, -1)).flatten(1)

    return features


def _labels(labels: Tensor, n: int) -> Tensor:
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.shape != (n,):
        got = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"labels must be whole numbers, ({n},) as x has samples, got {got}")
    if int(labels.min()) < 0 or int(labels.min()) == int(labels.max()):
        raise ValueError(
            "labels must be of at least two classes, 0, 1, ..., got those between "
            f"{int(labels.min())} and {int(labels.max())}; leave them out for clusters"
        )
    return labels.long()


def _clusters(data: Tensor, seen: Tensor, source: torch.Generator) -> Tensor:
    """The nearest of ten centres of k-means (B,), which are found from the rows `seen`."""
    flat = data.flatten(1)
    points = flat[seen]
    centres = points[: min(10, len(points) // 10)]
    for _ in range(30):
        nearest = _nearest(points, centres)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        sizes = nearest.bincount(minlength=len(centres))[:, None]
        centres = torch.where(sizes > 0, sums / sizes.clamp_min(1), centres)
    return _nearest(flat, centres)


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    return torch.cat([torch.cdist(part, centres).argmin(1) for part in points.split(4096)])


def _initialise(features: nn.Module, source: torch.Generator) -> None:
    """Normal weights of variance 1/fan-in, from the generator alone; biases 0."""
    for module in features.modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if isinstance(weight, nn.Parameter) and isinstance(bias, nn.Parameter):
            with torch.no_grad():
                drawn = torch.randn(weight.shape, generator=source, device=source.device)
                weight.copy_(drawn * math.sqrt(weight.shape[0] / weight.numel()))
                bias.zero_()


def _train(features: Features, data: Tensor, target: Tensor, steps: int, source: torch.Generator) -> None:
    optimizer = torch.optim.AdamW(features.parameters(), lr=2e-3, weight_decay=0.01)
    with torch.enable_grad():
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * (1 + math.cos(math.pi * step / steps))
            rows = torch.randint(len(data), (128,), generator=source, device=source.device).to(data.device)
            loss = functional.cross_entropy(features.head(features(data[rows])), target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

"""A mixture whose components belong to classes: exact conditional models, classifiers, and what guidance aims at."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from scoresde import _checks
from scoresde.model import Model
from scoresde.prediction import Prediction, limit
from scoresde.process.base import Process
from scoresde.targets.base import exact_answer
from scoresde.targets.mixture import GaussianMixture

NODES, COARSE = {1: 20_001, 2: 701}, {1: 2001, 2: 201}
"""Of the grid that normalises a tilted law, along each dimension, and of the one that finds where it is."""


class Labelled(nn.Module):
    """A Gaussian mixture and the class of each component: p(x, y) = Σ_{k: label_k = y} w_k N(x; m_k, C_k).

    Args:
        mixture: GaussianMixture, p(x). labels: (K,), whole numbers from 0; every class has a component.
    Raises:
        ValueError, TypeError: labels that do not fit the mixture.

    Example:
        >>> import torch
        >>> from scoresde import VP, targets
        >>> classes = Labelled(targets.GaussianMixture([1, 1, 2], [[-2.0], [0.0], [2.0]], 0.1), [0, 1, 0])
        >>> classes.prior
        tensor([0.7500, 0.2500], dtype=torch.float64)
        >>> classes.given(0).means.flatten()
        tensor([-2.,  2.], dtype=torch.float64)
        >>> classes.model(VP()).given(label=torch.tensor([0, 1])).predict("x0", torch.zeros(2, 1), 0.01).shape
        torch.Size([2, 1])
    """

    labels: Tensor

    def __init__(self, mixture: GaussianMixture, labels: Any) -> None:
        super().__init__()
        self.mixture = _checks.kind("mixture", mixture, GaussianMixture, "targets.GaussianMixture(w, m, C)")
        labels = _checks.whole_numbers("labels", labels).to(mixture.weights.device)
        if labels.shape != mixture.weights.shape:
            raise ValueError(
                f"labels must be whole numbers of shape ({len(mixture.weights)},), one for each component, "
                f"got {labels.dtype} of shape {tuple(labels.shape)}"
            )
        if labels.unique().tolist() != list(range(int(labels.max()) + 1)):
            raise ValueError(f"labels must be 0, 1, ... with no class left out, got {labels.tolist()}")
        self.register_buffer("labels", labels.long())

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return int(self.labels.max()) + 1

    @property
    def prior(self) -> Tensor:
        """p(y): (classes,)."""
        return self.mixture.weights @ self._members

    @property
    def _members(self) -> Tensor:
        """Which component belongs to which class: (K, classes), 1 or 0."""
        return nn.functional.one_hot(self.labels, self.classes).double()

    def given(self, label: int) -> GaussianMixture:
        """p(x | y = label), a mixture."""
        if not 0 <= _checks.count("label", label, 0) < self.classes:
            raise ValueError(f"label must be below {self.classes}, the number of classes, got {label}")
        own = self.labels == label
        part = GaussianMixture(self.mixture.weights[own], self.mixture.means[own], self.mixture.covariances[own])
        part.dtype = self.mixture.dtype
        return part

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw n samples (n, D) and their labels (n,)."""
        x = self.mixture.sample(n, generator)
        share = self.mixture.responsibilities(x.double()) @ self._members  # p(y | x), so that (x, y) is a joint draw
        where = _checks.device_of(generator, x.device)
        u = torch.rand(n, 1, generator=generator, device=where, dtype=torch.float64).to(x.device)
        return x, (share.cumsum(1)[:, :-1] < u).sum(1)

    def model(self, process: Process, prediction: Prediction = "noise") -> Model:
        """The exact conditional model: net(x, t, label=None), label () or (B,) int64, −1 for no condition.

        Its moments are those of the mixture.
        """
        _checks.kind("process", process, Process, "VP()")
        return Model(_Conditional(self, process, prediction), process, prediction, self.mixture.moments)

    def classifier(self, process: Process) -> nn.Module:
        """The exact classifier of noised data: (x, t) -> log p_t(y | x), (B, classes)."""
        return _Classifier(self, _checks.kind("process", process, Process, "VP()"))

    def tilted(self, label: int, weight: float) -> Tilted:
        """What guidance by a weight aims at, p(x | y)^w p(x)^(1−w), up to its constant."""
        return Tilted(self, label, weight)


class Tilted:
    """The law proportional to p(x | y)^w p(x)^(1−w) = p(x) (p(y | x)/p(y))^w.

    `sample` is exact in any dimension, by rejection: since p(y | x) <= 1, draws from p(x | y) are kept with probability
    p(y | x)^(w−1) for w >= 1, and draws from p(x) with p(y | x)^w for w in [0, 1]. `log_prob` is normalised by a grid,
    in one or two dimensions.

    Args:
        classes: `Labelled`, p(x, y). label: y. weight: w; of at least 0 for `sample`.
    Raises:
        ValueError: a label that is not one of the classes, a weight that is not finite.

    Example:
        >>> import torch
        >>> from scoresde import targets
        >>> classes = targets.Labelled(targets.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], 0.25), [0, 1])
        >>> x = torch.linspace(-2, 2, 5)[:, None].double()
        >>> torch.allclose(targets.Tilted(classes, 1, 1.0).log_prob(x), classes.given(1).log_prob(x))  # w = 1: p(x | y)
        True

    Reference: Ho and Salimans (2022), arXiv 2207.12598; docs/theory, eq. 64.
    """

    def __init__(self, classes: Labelled, label: int, weight: float) -> None:
        self.classes, self.label, self.weight = classes, label, _checks.number("weight", weight)
        self.conditional = classes.given(label)
        self._log_z: float | None = None

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n samples, (n, D); for weights of at least 0.

        Raises:
            ValueError: a negative weight, or one so large that fewer than one draw in 10,000 is kept.
        """
        _checks.count("n", n, 0)
        if self.weight < 0:
            raise ValueError(f"weight must be at least 0 to sample by rejection, got {self.weight:g}")
        source = self.conditional if self.weight >= 1 else self.classes.mixture
        power = self.weight - 1 if self.weight >= 1 else self.weight
        kept, drawn, many = [source.sample(0)], 0, 0
        while many < n:
            x = source.sample(max(1000, n), generator)
            where = _checks.device_of(generator, x.device)
            u = torch.rand(len(x), generator=generator, device=where, dtype=torch.float64).to(x.device)
            kept.append(x[u.log() < power * self._log_posterior(x.double())])
            drawn, many = drawn + len(x), many + len(kept[-1])
            if drawn >= 10_000 and many < 1e-4 * drawn:
                raise ValueError(f"weight {self.weight:g} keeps {many} of {drawn} draws; lower it, or use log_prob")
        return torch.cat(kept)[:n]

    def log_prob(self, x: Tensor) -> Tensor:
        """The log-density in nats at x: (B, D), D of 1 or 2; returns (B,)."""
        if self._log_z is None:
            points, cell = self._grid()
            values = self._unnormalised(points)
            self._log_z = float(values.logsumexp(0)) + math.log(cell)
        return (self._unnormalised(_checks.state("x", x).double()) - self._log_z).to(x.dtype)

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        """The mean (D,) and the covariance (D, D), by the grid."""
        points, _ = self._grid()
        share = self._unnormalised(points).softmax(0)
        mean = share @ points
        return mean, (share[:, None] * (points - mean)).mT @ (points - mean)

    def _log_posterior(self, x: Tensor) -> Tensor:
        """log p(y | x): (B,)."""
        joint = self.conditional.log_prob(x) + self.classes.prior[self.label].log()
        return (joint - self.classes.mixture.log_prob(x)).clamp_max(0.0)

    def _unnormalised(self, x: Tensor) -> Tensor:
        conditional, all_of_it = self.conditional.log_prob(x), self.classes.mixture.log_prob(x)
        return self.weight * conditional + (1 - self.weight) * all_of_it

    def _grid(self) -> tuple[Tensor, float]:
        """Points (N, D) over where the law is within e⁻⁴⁰ of its peak, and the volume of a cell: the trapezium rule.

        Raises:
            ValueError: three or more dimensions; a law without an end (weights below 0 may have none), or with modes
                too narrow for the grid.
        """
        mixture = self.classes.mixture
        if mixture.dim not in NODES:
            raise ValueError(f"a tilted law has its density in 1 or 2 dimensions, got {mixture.dim}; draw with sample")
        reach = 12 * mixture.variances.amax().sqrt()
        low, high = mixture.means.amin(0) - reach, mixture.means.amax(0) + reach
        for _ in range(24):  # until all of it is inside, and no more than that
            points, cell = self._points(low, high, COARSE[mixture.dim])
            values = self._unnormalised(points)
            inside = points[values > values.max() - 40]
            edge = torch.tensor(cell).to(low)
            least, most = inside.amin(0) - edge, inside.amax(0) + edge
            if bool((least > low).all() and (most < high).all()):
                break
            low, high = low - (high - low) / 2, high + (high - low) / 2
        else:
            raise ValueError(f"weight {self.weight:g} leaves a law without an end: p(y | x)^w outgrows p(x)")
        points, cell = self._points(least, most, NODES[mixture.dim])
        narrow = float(mixture.variances.amin().sqrt()) / math.sqrt(max(1.0, abs(self.weight)))
        if max(cell) > narrow / 2:
            raise ValueError(
                f"modes of deviation {narrow:.2g} are too narrow for a grid of {max(cell):.2g}; use sample"
            )
        return points, math.prod(cell)

    def _points(self, low: Tensor, high: Tensor, nodes: int) -> tuple[Tensor, list[float]]:
        """A grid of so many nodes a side, (N, D), and the sides of its cells."""
        like = {"dtype": torch.float64, "device": low.device}
        places = [torch.linspace(float(a), float(b), nodes, **like) for a, b in zip(low, high)]
        points = torch.stack(torch.meshgrid(*places, indexing="ij"), -1).reshape(-1, len(places))
        return points, [float(p[1] - p[0]) for p in places]


class _Conditional(nn.Module):
    def __init__(self, classes: Labelled, process: Process, prediction: Prediction) -> None:
        super().__init__()
        self.parts = nn.ModuleList([classes.mixture, *(classes.given(k) for k in range(classes.classes))])
        self.process, self.prediction = process, prediction

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        answers = [exact_answer(part, self.process, self.prediction, x, t) for part in self.parts]  # type: ignore
        if label is None:
            return answers[0]
        label = torch.as_tensor(label, device=x.device)
        if label.is_floating_point() or label.shape not in ((), x.shape[:1]):
            raise ValueError(f"label must be whole numbers () or ({len(x)},), got {label.dtype} {tuple(label.shape)}")
        if not _checks.traced(label) and label.numel() and int(label.max()) >= len(answers) - 1:
            raise ValueError(f"label must be below {len(answers) - 1}, the number of classes, got {int(label.max())}")
        chosen = nn.functional.one_hot(label.clamp_min(-1) + 1, len(answers)).to(x.dtype).expand(len(x), -1)
        return torch.einsum("bk,kb...->b...", chosen, torch.stack(answers))


class _Classifier(nn.Module):
    def __init__(self, classes: Labelled, process: Process) -> None:
        super().__init__()
        self.classes, self.process = classes, process

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = limit(t)
        alpha, sigma = (c.reshape(-1, 1) for c in (self.process.alpha(t), self.process.sigma(t)))
        log_joint = self.classes.mixture.log_joint(x.flatten(1).double(), alpha, sigma)
        hidden = torch.where(self.classes._members.mT.bool(), 0.0, -math.inf)
        return (log_joint[:, None] + hidden).logsumexp(2).log_softmax(1).to(x.dtype)

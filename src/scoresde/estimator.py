"""A density estimator for scikit-learn, beside KernelDensity and GaussianMixture."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scoresde import _checks
from scoresde.likelihood import log_prob
from scoresde.model import Model
from scoresde.prediction import Prediction, limit, row
from scoresde.process import VP, Process
from scoresde.process.base import randn
from scoresde.samplers import sample
from scoresde.training import fit

try:
    from sklearn.base import BaseEstimator, DensityMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError("ScoreDensity needs scikit-learn; install scoresde[experiments]") from error

SHRINKAGES = (0.0, 1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Weights of the diagonal in the covariance, to choose from."""

FLOOR = 1e-6
"""The least variance of a direction, of standardised features: what data in a plane are given across it."""

BLUR, SHARP = 0.5, 0.7
"""Noise on the rows: its share at first, and the share of the training after which it is gone (in between, squared)."""

SPREAD = 4.0
"""The deviation given to the whitened rows: as training asks as often below σ/α = 1 as above, half of the noise is less
than a quarter of it."""

CHUNK = 20_000
"""How many rows of a Jacobian product all networks together have at once."""

FEW = 1000
"""The number of rows below which a mean of several networks a share is worth its price."""

EDGE = 2 * math.log(1000)
"""|log(α²/σ²)| beyond which noise, or data, no longer matter."""

LOOKS, CHECKED_ROWS = 50, 10_000
"""How often in the training, and on how many rows, the held-out density is looked at."""


class ScoreDensity(DensityMixin, BaseEstimator):
    """A density by score matching: a committee of small networks around the Gaussian of the data.

    The features are standardised and whitened, the change of variables taken into account. Each of `shares` groups
    of networks leaves out its own share of the rows; a network adds to the score of the Gaussian of its rows, at
    first nothing. The rows are blurred with noise that fades as training goes on, and the held-out density, of each
    row by the group that does not know it, says when to stop: small data stay smooth, many rows end sharp. The
    density is that of the flow by the mean of all networks.

    Args:
        process: the forward process; None: VP(). prediction: what the networks predict.
        shares: how many groups, at most one a row. members: networks in each; None: 4 for fewer than
            1000 rows, else 1. width, blocks: of each network.
        max_iter: the most steps of training. batch_size: rows a step, over all networks. learning_rate: of Adam.
        n_iter_no_change: looks (50 in max_iter) without a better held-out density before training stops.
        steps: of the likelihood's integrator, to begin. sample_steps: of the sampler's.
        random_state: a seed, or numpy.random.RandomState; None: numpy's global one.
    Attributes:
        model_: the Model of the whitened rows. whitening_: with `mean`, `matrix` and the chosen `shrinkage`.
        log_volume_: log |det matrix|, what the change of variables adds to each log-density.
        n_iter_: steps until the best held-out density. validation_scores_: pairs (step, held-out nats a row).
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.
    Raises:
        ValueError, TypeError: parameters that do not fit, at `fit`, or rows, as everywhere in scikit-learn.

    Example:
        >>> import numpy as np
        >>> from scoresde.estimator import ScoreDensity
        >>> X = np.random.RandomState(0).randn(200, 2)
        >>> density = ScoreDensity(max_iter=40, random_state=0).fit(X)
        >>> density.score_samples(X[:3]).shape, density.sample(4, random_state=1).shape
        ((3,), (4, 2))

    Reference: Vincent (2011); Song et al. (2021), arXiv 2011.13456, eq. 39; Karras et al. (2022), 2206.00364, eq. 7.
    """

    model_: Model
    whitening_: Whitening
    n_features_in_: int

    def __init__(
        self, process: Process | None = None, prediction: Prediction = "noise", *, shares: int = 5,
        members: int | None = None, width: int = 64, blocks: int = 2, max_iter: int = 5000, batch_size: int = 1000,
        learning_rate: float = 2e-3, n_iter_no_change: int = 10, steps: int = 32, sample_steps: int = 30,
        random_state: Any = None,
    ) -> None:  # fmt: skip
        self.process = process
        self.prediction = prediction
        self.shares = shares
        self.members = members
        self.width = width
        self.blocks = blocks
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.n_iter_no_change = n_iter_no_change
        self.steps = steps
        self.sample_steps = sample_steps
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> ScoreDensity:
        """Fit the density of X: (n, D), n of at least 2; y is ignored. The same for the same random_state."""
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        shares = min(_checks.count("shares", self.shares, 2), len(X))
        chance = check_random_state(self.random_state)
        X = X[chance.permutation(len(X))]  # row i is in share i mod shares
        self.whitening_ = Whitening.of(X, shares)
        self.log_volume_ = float(np.linalg.slogdet(self.whitening_.matrix)[1])
        z = torch.from_numpy((X - self.whitening_.mean) @ self.whitening_.matrix).float()
        generator = torch.Generator().manual_seed(seed := int(chance.randint(2**31 - 1)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = self._untrained(len(z))
        moments = torch.zeros(z.shape[1]), torch.full(z.shape[1:], SPREAD)
        self._train(Model(net, net.process, self.prediction, moments), z, generator)
        return self

    def _untrained(self, rows: int) -> Committee:
        members = self.members if self.members is not None else 4 if rows < FEW else 1
        sizes = [_checks.count("members", members)]
        sizes += [_checks.count(name, getattr(self, name)) for name in ("width", "blocks")]
        means, covariances = (torch.from_numpy(m) for m in (self.whitening_.means, self.whitening_.covariances))
        return Committee(means, covariances, VP() if self.process is None else self.process, self.prediction, *sizes)

    def _train(self, model: Model, z: Tensor, generator: torch.Generator) -> None:
        """Follow the held-out density along `fit`, and keep the best of the averaged networks."""
        steps, net = _checks.count("max_iter", self.max_iter), model.net
        patience = _checks.count("n_iter_no_change", self.n_iter_no_change)
        k, shares, blur = net.k, net.groups, BLUR
        batch = max(1, _checks.count("batch_size", self.batch_size) // k) * k

        def draw(n: int, generator: torch.Generator | None) -> Tensor:
            """Rows for each network in turn, none of its group's share, blurred."""
            share = (torch.arange(n) + torch.randint(1, shares, (n,), generator=generator)) % shares
            size = (len(z) - share + shares - 1) // shares
            pick = share + shares * (torch.rand(n, generator=generator, dtype=torch.float64) * size).long()
            return math.sqrt(1 - blur**2) * z[pick] + SPREAD * blur * randn((n, z.shape[1]), generator)

        rows = z[: min(len(z), CHECKED_ROWS) // shares * shares]
        rows = rows.repeat(math.ceil(CHECKED_ROWS / len(rows)), 1)

        def held_out(net: Any) -> float:
            net.eval().apart = True
            value = bound(replace(model, net=net), rows) + self.log_volume_
            net.apart = False
            return value

        every, best, scores = max(1, steps // LOOKS), (0, deepcopy(net)), [(0, held_out(net))]
        net.train()
        for record in fit(model, draw, steps, batch_size=batch, lr=self.learning_rate, ema=0.998, generator=generator):
            blur = BLUR * max(0.0, 1 - record.step / (SHARP * steps)) ** 2
            if record.step % every and record.step < steps:
                continue
            scores.append((record.step, held_out(record.model.net)))
            if scores[-1][1] > max(score for _, score in scores[:-1]):
                best = record.step, deepcopy(record.model.net)
            elif record.step - best[0] >= patience * every:
                break
        self.n_iter_, self.validation_scores_ = max(1, best[0]), scores
        self.model_ = replace(model, net=best[1].eval().double().requires_grad_(False))

    def score_samples(self, X: Any) -> np.ndarray:
        """The log-density of each row of X: (n, D), in nats: (n,)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        z = torch.from_numpy((X - self.whitening_.mean) @ self.whitening_.matrix)
        net: Any = self.model_.net
        chunk = max(1, CHUNK // net.k)
        pieces = [log_prob(self.model_, part, self.steps, chunk=chunk).value for part in z.split(4096)]
        return torch.cat(pieces).numpy() + self.log_volume_

    def score(self, X: Any, y: Any = None) -> float:
        """The mean log-density of the rows, in nats, as GaussianMixture's score (KernelDensity's is the sum)."""
        return float(np.mean(self.score_samples(X)))

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """Draw (n_samples, D). random_state: a seed, or numpy.random.RandomState; None: numpy's global one."""
        check_is_fitted(self)
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        shape = (_checks.count("n_samples", n_samples), self.n_features_in_)
        z = sample(self.model_, shape, steps=self.sample_steps, generator=torch.Generator().manual_seed(seed))
        return self.whitening_.mean + z.numpy() @ np.linalg.inv(self.whitening_.matrix)


class Committee(nn.Module):
    """F groups of J networks, each around what is exact for normal data, and their mean.

    For x₀ ~ N(m, V diag(c) Vᵀ), y = a x₀ + b ε has given x the mean a m + V (aαc + bσ)/(α²c + σ²) Vᵀ(x − αm); for
    c = s² its deviation is s |aσ − bα|/√(α²s² + σ²). A group knows m, V and c of its own rows; each of its networks,
    residual blocks with feature-wise modulation by log σ/α, adds to that mean at the scale of that deviation, at
    first nothing. While training, row i is the business of network i mod K alone, K = F J; where `apart`, of
    group i mod F.
    """

    center: Tensor  # (F, 1, D)
    axes: Tensor  # (F, D, D)
    variances: Tensor  # (F, 1, D)
    frequencies: Tensor

    def __init__(
        self, means: Tensor, covariances: Tensor, process: Process, prediction: Prediction, members: int, width: int,
        blocks: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.process, self.prediction, self.groups, self.k = process, prediction, len(means), len(means) * members
        self.apart = False
        variances, axes = torch.linalg.eigh(covariances)
        frequencies = torch.arange(1.0, 5.0) * math.pi / 2
        for name, value in (
            ("center", means[:, None]), ("axes", axes), ("variances", variances[:, None]), ("frequencies", frequencies),
        ):  # fmt: skip
            self.register_buffer(name, value.float())
        dim, waves = means.shape[1], 2 * len(frequencies)
        self.enter = self._matrix(dim + waves, width)
        self.film = nn.ParameterList(self._matrix(waves, 2 * width) for _ in range(blocks))
        self.first = nn.ParameterList(self._matrix(width, width) for _ in range(blocks))
        self.second = nn.ParameterList(self._matrix(width, width) for _ in range(blocks))
        self.leave = nn.Parameter(torch.zeros(self.k, width, dim))

    def _matrix(self, inward: int, outward: int) -> nn.Parameter:
        """For each network, in the order of members and then groups, a constant and a linear map."""
        values = torch.randn(self.k, 1 + inward, outward) / math.sqrt(inward)
        values[:, 0] = 0.0
        return nn.Parameter(values)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        at, edge = limit(t), EDGE / 2
        alpha, sigma = self.process.alpha(at), self.process.sigma(at)
        a, b = (torch.as_tensor(c, dtype=at.dtype).expand(at.shape) for c in row(self.prediction, self.process, at))
        place = (sigma.log() - alpha.log() - math.log(SPREAD)).clamp(-edge, edge) / edge
        waves = place[:, None] * self.frequencies
        split = self.k if self.training else self.groups if self.apart else 1

        def route(v: Tensor) -> Tensor:
            """(B, ·) to every network its rows: (K, B/split, ·)."""
            return v.to(x.dtype).reshape(-1, split, v.shape[1]).transpose(0, 1).repeat(self.k // split, 1, 1)

        alpha, sigma, a, b = route(torch.stack([alpha, sigma, a, b], 1)).split(1, 2)
        x, waves, size = route(x), route(torch.cat([waves.sin(), waves.cos()], 1)), torch.hypot(SPREAD * alpha, sigma)
        deviation = SPREAD * (a * sigma - b * alpha) / size
        y = self._gaussian(x, alpha, sigma, a, b) + deviation * self._correction(x / size, waves)
        return y.unflatten(0, (-1, split)).mean(0).transpose(0, 1).reshape(-1, y.shape[2])

    def _gaussian(self, x: Tensor, alpha: Tensor, sigma: Tensor, a: Tensor, b: Tensor) -> Tensor:
        many = self.k // self.groups
        center, axes, variances = (v.repeat(many, 1, 1) for v in (self.center, self.axes, self.variances))
        gain = (a * alpha * variances + b * sigma) / (alpha**2 * variances + sigma**2)
        return a * center + (gain * ((x - alpha * center) @ axes)) @ axes.mT

    def _correction(self, x: Tensor, waves: Tensor) -> Tensor:
        hidden = _linear(torch.cat([x, waves], 2), self.enter)
        for film, first, second in zip(self.film, self.first, self.second):
            gain, shift = _linear(waves, film).chunk(2, 2)
            inner = nn.functional.silu(_linear(nn.functional.silu(hidden), first) * (1 + gain) + shift)
            hidden = hidden + _linear(inner, second)
        return nn.functional.silu(hidden) @ self.leave


@torch.no_grad()
def bound(model: Model, z: Tensor) -> float:
    """A lower bound on the mean log-density of rows z: (B, D), with the same noise at every call.

    log p(z) ≥ log N(z; 0, s²) + ½ ∫ E[‖ε − ε̂_N‖² − ‖ε − ε̂‖²] dλ, λ = log(α²/σ²), with ε̂_N = σ x/(α²s² + σ²) that
    of N(0, s²), for which the bound is the density itself: only the difference of the two is drawn at random.

    Reference: Kingma et al. (2021), arXiv 2107.00630, eq. 17 and 18.
    """
    generator, process = torch.Generator().manual_seed(0), model.process
    ends = [max(-EDGE, process.at("logsnr", process.t_max)), min(EDGE, process.at("logsnr", process.t_min))]
    level = (torch.randperm(len(z), generator=generator).double() + 0.5) / len(z)
    t = process.time(ends[0] + (ends[1] - ends[0]) * level).clamp(process.t_min, process.t_max)
    x, noise = process.perturb(z, t, generator=generator)
    alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
    normal, own = sigma / ((SPREAD * alpha) ** 2 + sigma**2) * x, model.predict("noise", x, t)
    gain = ((noise - normal).square() - (noise - own).square()).sum(1).mean()
    base = -0.5 * (z.double() / SPREAD).square().sum(1).mean() - z.shape[1] * (
        0.5 * math.log(2 * math.pi) + math.log(SPREAD)
    )
    return float(base + 0.5 * (ends[1] - ends[0]) * gain)


def _linear(x: Tensor, matrix: Tensor) -> Tensor:
    return x @ matrix[:, 1:] + matrix[:, :1]


@dataclass(frozen=True)
class Whitening:
    """z = (x − mean) @ matrix has mean 0 and deviation SPREAD in all directions, or less where shrinkage went in.

    The covariance of the standardised features, C, becomes (1 − γ) C + γ I with the γ whose Gaussian gives each
    share of the rows (row i is in share i mod K) the highest density by the mean and covariance of the others.
    `means`: (K, D) and `covariances`: (K, D, D), of z without each share, are shrunk likewise.
    """

    mean: np.ndarray
    matrix: np.ndarray
    shrinkage: float
    means: np.ndarray
    covariances: np.ndarray

    @staticmethod
    def of(X: np.ndarray, shares: int) -> Whitening:
        mean, scale = X.mean(0), X.std(0)
        scale = np.where(scale > 1e-12 * np.maximum(1.0, np.abs(mean)), scale, 1.0)
        z = (X - mean) / scale
        parts = [np.delete(z, slice(i, None, shares), axis=0) for i in range(shares)]
        means = np.stack([part.mean(0) for part in parts])
        spectra = [_spectrum(part) for part in parts]
        totals = np.zeros(len(SHRINKAGES))
        for i, (values, axes) in enumerate(spectra):
            along = ((z[i::shares] - means[i]) @ axes) ** 2
            for k, gamma in enumerate(SHRINKAGES):
                variance = _shrunk(values, gamma)
                totals[k] -= 0.5 * (along / variance + np.log(variance)).sum()
        gamma = SHRINKAGES[int(totals.argmax())]
        values, axes = _spectrum(z)
        turn = SPREAD * axes / np.sqrt(_shrunk(values, gamma)) @ axes.T  # symmetric: the axes' signs are arbitrary
        covariances = np.stack([(turn.T @ v * _shrunk(c, gamma)) @ v.T @ turn for c, v in spectra])
        return Whitening(mean, turn / scale[:, None], gamma, means @ turn, covariances)


def _spectrum(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.linalg.eigh(np.atleast_2d(np.cov(z.T, bias=True)))


def _shrunk(variances: np.ndarray, gamma: float) -> np.ndarray:
    return np.maximum((1 - gamma) * variances + gamma, FLOOR)

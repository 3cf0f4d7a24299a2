"""Densities that need no network, beside which the trained models are put: their settings chosen by cross-validation.

A full-covariance Gaussian (shrunk towards the mean variance), a Gaussian mixture fitted by EM and a kernel density,
the latter two scikit-learn's. Every setting of a grid is judged by four-fold cross-validation of the training data, and
the best one is fitted on all of them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

SHRINKAGE = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.2, 0.4)
"""Shares of the mean variance in the Gaussian's covariance."""

MIXTURES = tuple(product((1, 2, 3, 5, 10, 20), ("full", "tied", "diag"), (1e-4, 1e-3, 1e-2, 0.1)))
"""Components, their covariances, and what is added to their variances in units of the data's mean variance."""

BANDWIDTHS = tuple(10 ** np.linspace(-2, 0.5, 26))
"""In units of the data's root mean variance."""

LARGE = 10**6
"""Numbers in a data set from which EM starts but once."""

Density = Callable[[np.ndarray], np.ndarray]
"""Points (N, D) -> their log-densities in nats (N,)."""


@dataclass(frozen=True)
class Fitted:
    """A density with the setting that validation chose."""

    name: str
    setting: str
    log_prob: Density


def gaussian(x: np.ndarray, shrinkage: float) -> Density:
    """The normal distribution with the data's mean and covariance, a share of it the mean variance alone."""
    covariance = np.cov(x, rowvar=False, bias=True).reshape(x.shape[1], -1)
    covariance *= 1 - shrinkage
    covariance[np.diag_indices_from(covariance)] += shrinkage / (1 - shrinkage) * covariance.trace() / len(covariance)
    return multivariate_normal(x.mean(0), covariance, allow_singular=False).logpdf


def mixture(x: np.ndarray, components: int, kind: str, floor: float, iterations: int = 100) -> Density:
    """A mixture by EM."""
    return _em(x, components, kind, floor, iterations).score_samples


def fit_mixture(x: np.ndarray, components: int, kind: str, floor: float, iterations: int = 100) -> tuple[Any, Any, Any]:
    """Its weights, means and covariances."""
    model = _em(x, components, kind, floor, iterations)
    return model.weights_, model.means_, model.covariances_


def _em(x: np.ndarray, components: int, kind: str, floor: float, iterations: int) -> GaussianMixture:
    """EM from k-means; of small data two starts, of which the better on the training data is kept."""
    model = GaussianMixture(
        components, covariance_type=kind, reg_covar=floor * x.var(0).mean(), max_iter=iterations,
        n_init=2 if x.size < LARGE else 1, random_state=0,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x)


def kernel(x: np.ndarray, bandwidth: float) -> Density:
    """A Gaussian of one width at every point."""
    return KernelDensity(bandwidth=bandwidth * math.sqrt(x.var(0).mean())).fit(x).score_samples


def select(
    name: str, make: Callable[..., Density], grid: Sequence[Any], x: np.ndarray, seed: int = 0, folds: int = 4
) -> Fitted:
    """The best of a grid by the mean log-density of the rows held back in turn, fitted on all of x."""
    parts = np.array_split(np.random.default_rng(seed).permutation(len(x)), folds)
    scores: dict[tuple, float] = {}
    for setting in grid:
        setting = setting if isinstance(setting, tuple) else (setting,)
        try:
            scores[setting] = sum(float(make(np.delete(x, part, 0), *setting)(x[part]).sum()) for part in parts)
        except (ValueError, np.linalg.LinAlgError):  # a covariance that is not positive definite, too few points
            continue
    best = max(scores, key=lambda setting: scores[setting])
    return Fitted(name, " ".join(f"{s:.2g}" if isinstance(s, float) else str(s) for s in best), make(x, *best))


def baselines(
    x: np.ndarray, mixtures: Sequence[Any] = MIXTURES, bandwidths: Sequence[Any] = BANDWIDTHS, seed: int = 0
) -> list[Fitted]:
    """The Gaussian, the mixture and the kernel density for data x: (N, D)."""
    return [
        select("Gaussian", gaussian, SHRINKAGE, x, seed),
        select("Gaussian mixture (EM)", mixture, mixtures, x, seed),
        select("kernel density", kernel, bandwidths, x, seed),
    ]

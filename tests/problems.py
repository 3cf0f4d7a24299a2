"""The exact problems, in one place, and the statistics that judge samples of them."""

import math

import torch

from scoresde import EDM, VE, VP, Cosine, Discrete, RectifiedFlow, Sigmoid, SubVP, ddpm, targets

PROCESSES = [
    VP(), SubVP(), VE(), EDM(), Cosine(), Cosine(s=0.0), Sigmoid(), RectifiedFlow(),
    Discrete([0.1, 0.2, 0.3, 0.2, 0.5, 0.6]), ddpm(),
]  # fmt: skip
MAIN = [VP(), SubVP(), VE(), EDM(), Cosine(), RectifiedFlow()]
NAMES = ["x0", "noise", "score", "v", "velocity"]


def name(part):
    return part if isinstance(part, str) else getattr(part, "__name__", repr(part)[:32])


def mixture():
    """Three modes in the plane: unequal weights, full covariances, far enough apart to tell samples' modes."""
    covariances = torch.tensor(
        [[[0.04, 0.0], [0.0, 0.04]], [[0.09, 0.03], [0.03, 0.05]], [[0.06, -0.04], [-0.04, 0.06]]],
        dtype=torch.float64,
    )
    means = torch.tensor([[-1.5, 0.0], [1.5, 0.8], [0.3, -1.5]], dtype=torch.float64)
    return targets.GaussianMixture(torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64), means, covariances)


def gaussian():
    """A correlated Gaussian, off the origin."""
    covariance = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64)
    return targets.Gaussian(torch.tensor([1.0, -0.5], dtype=torch.float64), covariance)


def classes():
    """Two classes in the plane, of two modes and of one."""
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.2, -1.0]], dtype=torch.float64)
    mixture = targets.GaussianMixture(torch.tensor([0.3, 0.2, 0.5]).double(), means, torch.tensor([0.1, 0.2, 0.15]))
    return targets.Labelled(mixture, [0, 1, 0])


def apart():
    """The same, with modes so narrow that samples tell which they are of."""
    mixture = classes().mixture
    return targets.Labelled(targets.GaussianMixture(mixture.weights, mixture.means, mixture.covariances / 8), [0, 1, 0])


def exact_flow(target, process, x, t, s):
    """The probability flow of a Gaussian in closed form: a normal variable keeps its standardised value."""

    values, axes = torch.linalg.eigh(target.moments[1])

    def deviation(u):
        return (float(process.alpha(u)) ** 2 * values + float(process.sigma(u)) ** 2).sqrt()

    mean = target.moments[0]
    z = (x - float(process.alpha(t)) * mean) @ axes / deviation(t)
    return float(process.alpha(s)) * mean + (z * deviation(s)) @ axes.mT


def deviations(x, target):
    """How many standard errors the samples' mode weights, means and variances are from the target's.

    Errors of the mean of n draws: √(w(1 − w)/n) for a weight, √(v/n_k) for a mean, v√(2/n_k) for a normal
    variance; "spread" pools the whitened variances of all modes, error √(2/(nD)).
    """
    mode = target.responsibilities(x).argmax(1)
    scores, pooled = {}, 0.0
    for k, weight in enumerate(target.weights.tolist()):
        mine = x[mode == k]
        n = max(len(mine), 1)
        if len(target.weights) > 1:
            scores[f"weight {k}"] = (n / len(x) - weight) / math.sqrt(weight * (1 - weight) / len(x))
        white = ((mine - target.means[k]) @ target.axes[k]) / target.variances[k].sqrt()
        for i in range(target.dim):
            scores[f"mean {k},{i}"] = float(white[:, i].mean()) * math.sqrt(n)
            scores[f"variance {k},{i}"] = float(white[:, i].var() - 1) / math.sqrt(2 / n)
        scores[f"covariance {k}"] = float((white[:, 0] * white[:, 1]).mean()) * math.sqrt(n)
        pooled += float((white - white.mean(0)).square().sum())
    scores["spread"] = (pooled / (len(x) * target.dim) - 1) / math.sqrt(2 / (len(x) * target.dim))
    return scores


def worst(scores):
    return max(abs(score) for score in scores.values())


LIMIT = 4.0
"""Of 19 scores, the largest exceeds 4 standard errors by chance in 0.1 % of seeds."""


def slope(errors, steps):
    """The order of convergence that the last two of a list of errors show."""
    return math.log(errors[-2] / errors[-1]) / math.log(steps[-1] / steps[-2])

"""Exact answers: densities whose noised versions, scores and predictions are known in closed form."""

from scoresde.targets.base import Target
from scoresde.targets.empirical import Empirical
from scoresde.targets.examples import EXAMPLES
from scoresde.targets.mixture import Gaussian, GaussianMixture
from scoresde.targets.toys import checkerboard, moons, pinwheel, rings, swiss_roll

__all__ = [
    "EXAMPLES", "Empirical", "Gaussian", "GaussianMixture", "Target",
    "checkerboard", "moons", "pinwheel", "rings", "swiss_roll",
]  # fmt: skip

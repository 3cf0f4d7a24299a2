"""Exact answers: densities whose noised versions, scores and predictions are known in closed form."""

from scoresde.targets.base import Target
from scoresde.targets.empirical import Empirical
from scoresde.targets.examples import EXAMPLES
from scoresde.targets.labelled import Labelled, Tilted
from scoresde.targets.mixture import Gaussian, GaussianMixture
from scoresde.targets.toys import checkerboard, moons, pinwheel, rings, swiss_roll

__all__ = [
    "EXAMPLES", "Empirical", "Gaussian", "GaussianMixture", "Labelled", "Target", "Tilted",
    "checkerboard", "moons", "pinwheel", "rings", "swiss_roll",
]  # fmt: skip

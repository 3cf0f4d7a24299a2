"""Likelihoods: by the probability-flow ODE, and of integer data."""

from scoresde.likelihood.bits import BitsPerDim, bits_per_dim
from scoresde.likelihood.ode import LogProb, log_prob

__all__ = ["BitsPerDim", "LogProb", "bits_per_dim", "log_prob"]

"""Likelihoods by the flow (`log_prob`), by the continuous bound (`elbo`), by the chain's (`vlb`); integer data."""

from scoresde.density import LogProb
from scoresde.likelihood.bits import BitsPerDim, bits_per_dim
from scoresde.likelihood.chain import Vlb, vlb
from scoresde.likelihood.continuous import Elbo, elbo
from scoresde.likelihood.dequantization import TruncatedNormal, Uniform, Variational, fit_dequantizer
from scoresde.likelihood.ode import log_prob

__all__ = [
    "BitsPerDim", "Elbo", "LogProb", "TruncatedNormal", "Uniform", "Variational", "Vlb", "bits_per_dim", "elbo",
    "fit_dequantizer", "log_prob", "vlb",
]  # fmt: skip

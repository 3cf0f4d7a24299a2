"""A training, a sampling and a likelihood as one call each, kept in a folder: what the command line runs."""

from scoresde.runs.folder import Log, describe, device_of, opened
from scoresde.runs.likelihood import Likelihood, likelihood
from scoresde.runs.sample import sample
from scoresde.runs.train import train

__all__ = ["Likelihood", "Log", "describe", "device_of", "likelihood", "opened", "sample", "train"]

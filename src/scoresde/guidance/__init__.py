"""Guidance: functions from a model to a model, which samplers and likelihoods take like any other.

A weight is 1 for a conditional model as it is, and may be a number, a tensor (B,) with one for each sample, or a
function of t. Predictions are affine in each other at fixed x and t, so that a mean of models with weights of sum one
is the same in every prediction.
"""

from scoresde.guidance.classifier import classifier, fit_classifier
from scoresde.guidance.free import autoguidance, classifier_free, compose
from scoresde.guidance.shape import temperature, threshold
from scoresde.guidance.weight import from_ho_salimans, interval, to_ho_salimans

__all__ = [
    "autoguidance", "classifier", "classifier_free", "compose", "fit_classifier", "from_ho_salimans", "interval",
    "temperature", "threshold", "to_ho_salimans",
]  # fmt: skip

"""Metrics between sets of samples, each with a standard error and the floor that real data have; a leaf."""

from scoresde.metrics.classifier import classifier_test
from scoresde.metrics.features import Features, fit_features, inception_features
from scoresde.metrics.kernel import energy_distance, mmd
from scoresde.metrics.measure import METRICS, Estimate, Metric, measure
from scoresde.metrics.moments import frechet, frechet_gaussians
from scoresde.metrics.neighbours import precision, recall
from scoresde.metrics.transport import sliced_wasserstein, wasserstein

__all__ = [
    "METRICS",
    "Estimate",
    "Features",
    "Metric",
    "classifier_test",
    "energy_distance",
    "fit_features",
    "frechet",
    "frechet_gaussians",
    "inception_features",
    "measure",
    "mmd",
    "precision",
    "recall",
    "sliced_wasserstein",
    "wasserstein",
]

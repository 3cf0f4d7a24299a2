"""Metrics between sets of samples; torch only."""

from scoresde.metrics.wasserstein import sliced_wasserstein

__all__ = ["sliced_wasserstein"]

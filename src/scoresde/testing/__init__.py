"""Checks to run on your own parts."""

from scoresde.testing.model import check_model

__all__ = ["check_model"]

"""Checks to run on your own parts."""

from scoresde.testing.certificate import Certificate
from scoresde.testing.certify import certify
from scoresde.testing.model import check_model

__all__ = ["Certificate", "certify", "check_model"]

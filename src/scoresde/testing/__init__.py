"""Checks to run on your own parts."""

from scoresde.testing.certify import Certificate, certify
from scoresde.testing.model import check_model

__all__ = ["Certificate", "certify", "check_model"]

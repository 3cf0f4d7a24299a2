"""Checks to run on your own parts: certificates of samplers, and the conformance kit.

`check_process`, `check_prediction`, `check_sampler`, `check_dynamics`, `check_guidance` and `check_likelihood` each try
a list of named properties, and raise AssertionError, as `check_model` does, with a table of what failed, its smallest
counter-example, what it means and what to change: they stand in tests, where the verdict counts. `examine` gives the
report whatever it says; `properties_of` makes each property an item of pytest. `scoresde.testing.strategies` holds
hypothesis strategies (pip install "scoresde[testing]").
"""

from scoresde.testing.budget import Budget
from scoresde.testing.certificate import Certificate
from scoresde.testing.certify import certify
from scoresde.testing.diagnose import diagnose
from scoresde.testing.items import PROPERTIES, examine, properties, properties_of
from scoresde.testing.kit import Case, Finding, Property, Report
from scoresde.testing.model import check_model
from scoresde.testing.parts.dynamics import check_dynamics
from scoresde.testing.parts.guidance import check_guidance
from scoresde.testing.parts.likelihood import check_likelihood
from scoresde.testing.parts.prediction import check_prediction
from scoresde.testing.parts.process import check_process
from scoresde.testing.parts.sampler import check_sampler

__all__ = [
    "PROPERTIES", "Budget", "Case", "Certificate", "Finding", "Property", "Report", "certify", "check_dynamics",
    "check_guidance", "check_likelihood", "check_model", "check_prediction", "check_process", "check_sampler",
    "diagnose", "examine", "properties", "properties_of",
]  # fmt: skip

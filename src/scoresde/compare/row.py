"""One line of a comparison: what was run, what it took, and how good the samples are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from scoresde import _checks
from scoresde.metrics import METRICS, Estimate, Metric


@dataclass(frozen=True)
class Row:
    """A cell of the grid, measured.

    Args:
        process, prediction, sampler: as one writes them, such as "VP(beta_max=15)", "v", "DPMSolverPP(3)".
        steps: asked for. nfe: calls of the network, counted. seconds: of the sampling.
        quality: metric → its estimate, with standard error, and the floor with its deviation over splits of real
            samples; "flow_error" only of deterministic samplers.
        bits_per_dim, bits_error: of the model on held-out data, and the standard error; None where it was not asked.
    """

    process: str
    prediction: str
    sampler: str
    steps: int
    nfe: int
    seconds: float
    quality: Mapping[str, Estimate]
    bits_per_dim: float | None = None
    bits_error: float | None = None


def flow_error(x: Tensor, ends: Tensor) -> float:
    """Root mean square distance a dimension between end points (N, *) and those of the flow, of the same starts."""
    return float((x.double() - ends).square().mean().sqrt())


def flow_estimate(x: Tensor, ends: Tensor) -> Estimate:
    """The flow error, with the standard error of a root of a mean over starts; the flow's own is 0."""
    squares = (x.double() - ends).square().flatten(1).mean(1)
    value = float(squares.mean().sqrt())
    error = float(squares.std() / math.sqrt(len(squares))) / (2 * value) if value else 0.0
    return Estimate(value, error, 0.0, 0.0)


FLOW = Metric(flow_error, "lower", "flow error", 0.0)


def about(metric: str) -> Metric:
    """What is known of a metric: of METRICS, or the flow error, which only a comparison can measure."""
    known = {**METRICS, "flow_error": FLOW}
    return known[_checks.choice("metric", metric, known)]

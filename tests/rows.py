"""Rows of comparisons that nobody ran."""

import random

import pytest

pytest.importorskip("matplotlib")
from scoresde.compare import Row
from scoresde.metrics import Estimate

METRICS = ("sliced_wasserstein", "mmd", "recall", "flow_error")


FLOORS = {"sliced_wasserstein": (0.031, 0.0009), "mmd": (0.00001, 0.0002), "recall": (0.94, 0.011)}


def row(nfe=10, value=1.0, error=0.1, floor=0.5, floor_error=0.05, metric="mmd", sampler="DDIM()", **given):
    quality = {} if value is None else {metric: Estimate(value, error, floor, floor_error)}
    return Row("VP()", "noise", sampler, nfe, nfe, nfe / 10, quality, **given)


def comparison(
    processes=("VP()", "VE()"), predictions=("noise", "v"), samplers=("DDIM()", "Heun()"), steps=(5, 10, 50)
):
    """Rows with something missing in most columns."""
    source, rows = random.Random(0), []
    for process in processes:
        for prediction in predictions:
            for sampler in samplers:
                for n in steps:
                    level = source.lognormvariate(-n / 10, 0.3)
                    values = {"sliced_wasserstein": 0.03 + level, "mmd": level**2 - 1e-4, "recall": 0.94 - 0.5 * level}
                    quality = {m: Estimate(values[m], 0.1 * FLOORS[m][0] + 1e-5, *FLOORS[m]) for m in FLOORS}
                    if len(rows) % 5 == 3:
                        quality.pop("mmd")
                    if len(rows) % 7 == 1:
                        quality.pop("recall")
                    if sampler != "Heun()":
                        quality["flow_error"] = Estimate(level, 0.02 * level, 0.0, 0.0)
                    bits = (None, None) if prediction == "v" else (3.2, 0.01)
                    rows.append(Row(process, prediction, sampler, n, 2 * n - 1, n * source.random(), quality, *bits))
    return rows

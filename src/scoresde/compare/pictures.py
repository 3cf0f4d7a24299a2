"""Samples of a comparison, side by side: one picture a model, one row or panel a sampler, from the same noise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from scoresde import plots
from scoresde.compare.cell import SHOWN
from scoresde.compare.subject import slug


def draw(folder: Path, real: Tensor, shown: Mapping[tuple[str, str], Tensor]) -> dict[str, Path]:
    """Pictures of samples by (model, sampler), written into the folder: title → file."""
    paths = {}
    for model in dict.fromkeys(model for model, _ in shown):
        groups = {"real": real[:SHOWN], **{sampler: x for (name, sampler), x in shown.items() if name == model}}
        paths[model] = folder / f"{slug(model)}.png"
        folder.mkdir(parents=True, exist_ok=True)
        plots.samples(groups, paths[model])
    return paths

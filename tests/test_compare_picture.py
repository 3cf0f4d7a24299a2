"""A comparison as a picture: every number is there, and nothing is cut off or covered."""

from dataclasses import replace
from io import BytesIO

import pytest

pytest.importorskip("matplotlib")
from matplotlib.colors import to_hex

from scoresde.compare import pareto
from scoresde.compare.table import frontier
from tests.rows import METRICS, comparison, row


def test_the_picture_shows_every_number():
    rows = comparison()
    drawn = pareto.figure(rows, "sliced_wasserstein")
    axes = [axis for axis in drawn.axes if axis.get_visible()]
    assert [axis.get_title() for axis in axes] == ["VP(), noise", "VE(), noise", "VP(), v", "VE(), v"]
    seen, ringed = [], []
    for axis in axes:
        for bars in axis.containers:
            line, _, (spread,) = bars.lines
            ends = [(a[1], b[1]) for a, b in spread.get_segments()]
            seen += [(axis.get_title(), x, y, *pair) for x, y, pair in zip(*line.get_data(), ends)]
        ringed += [xy for line in axis.lines if line.get_markersize() == 9 for xy in zip(*line.get_data())]
        band = axis.patches[0].get_extents().transformed(axis.transData.inverted())
        assert (band.y0, band.y1) == pytest.approx((0.0301, 0.0319))
        assert axis.get_xscale() == axis.get_yscale() == "log"
    known = [(f"{r.process}, {r.prediction}", r.nfe, r.quality["sliced_wasserstein"]) for r in rows]
    wanted = [(t, x, e.value, e.value - e.standard_error, e.value + e.standard_error) for t, x, e in known]
    assert len(seen) == len(wanted)
    for (title, *numbers), (other, *expected) in zip(sorted(seen), sorted(wanted)):
        assert title == other and numbers == pytest.approx(expected)
    edge = [(rows[i].nfe, rows[i].quality["sliced_wasserstein"].value) for i in frontier(rows, "sliced_wasserstein")]
    assert sorted(ringed) == sorted(edge)


def spoiled(drawn):
    """Whether something is cut off at the figure's edge, and the panels that the legend covers."""
    drawn.savefig(BytesIO())  # lays it out
    (width, height), ink, legend = drawn.get_size_inches(), drawn.get_tightbbox(), drawn.legends[0].get_window_extent()
    cut = min(ink.x0, ink.y0, width - ink.x1, height - ink.y1) < 0
    return cut, [
        axis.get_title() for axis in drawn.axes if axis.get_visible() and axis.get_tightbbox().overlaps(legend)
    ]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("metric", METRICS)
def test_nothing_is_cut_off_or_covered(metric, dark):
    drawn = pareto.figure(comparison(), metric, dark)
    assert spoiled(drawn) == (False, [])
    assert to_hex(drawn.get_facecolor()) == (pareto.DARK if dark else pareto.LIGHT).paper
    assert {axis.get_yscale() for axis in drawn.axes} == {{"recall": "linear", "mmd": "symlog"}.get(metric, "log")}


def test_a_legend_on_the_data_is_seen():
    drawn = pareto.figure(comparison(), "mmd")
    drawn.legends[0].set_loc("center")
    assert spoiled(drawn)[1]
    drawn.text(0.99, 0.5, "runs over the edge")
    assert spoiled(drawn)[0]


def test_odd_comparisons_are_drawn(tmp_path):
    """One row; no value; names that are mathematics or hidden to matplotlib; more panels than are drawn."""
    for rows in (
        [row()],
        [row(value=None), row(0)],
        [replace(row(), process="$x_{", sampler="_s")],
    ):
        assert spoiled(pareto.figure(rows, "mmd")) == (False, [])
    drawn = pareto.figure([replace(row(), sampler="_hidden")], "mmd")
    assert "_hidden" in [text.get_text() for text in drawn.legends[0].get_texts()]
    many = [replace(row(value=i), process=f"P{i}") for i in range(1, 30)]
    drawn = pareto.figure(many, "mmd")
    assert [a.get_title() for a in drawn.axes if a.get_visible()] == [f"P{i}, noise" for i in range(1, 17)]
    assert "16 best of 29" in drawn.get_suptitle()
    pareto.draw([row()], "mmd", tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG") and len(list(tmp_path.iterdir())) == 1

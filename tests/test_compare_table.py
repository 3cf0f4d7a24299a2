"""A comparison as text and CSV: ranked by hand, within the errors."""

import csv
import math
import random
from dataclasses import replace

import pytest

pytest.importorskip("matplotlib")
from scoresde.compare.table import answers, at_floor, floor, frontier, quality, rounded, table, write_csv
from tests.rows import METRICS, comparison, row


@pytest.mark.parametrize(
    "value, error, text",
    [
        (0.0123456, 0.00067, ("0.01235", "0.00067")),
        (0.5, 0.0996, ("0.50", "0.10")),
        (1234.5, 56.0, ("1234", "56")),
        (123456.0, 5600.0, ("123500", "5600")),
        (-0.00001, 0.01, ("0.000", "0.010")),
        (1.2341e-7, 6.7e-9, ("1.234e-07", "0.067e-07")),
        (3e-9, 2e-8, ("0.3e-08", "2.0e-08")),
        (1.2345e9, 3.3e6, ("1.2345e+09", "0.0033e+09")),
        (1.23456, None, ("1.23", "")),
        (1234.5, 0.0, ("1234", "")),
        (0.00001234, None, ("1.23e-05", "")),
        (0.0, None, ("0.00", "")),
        (7, None, ("7", "")),
        (math.nan, 0.1, ("–", "")),
        (None, None, ("–", "")),
    ],
)
def test_numbers_are_written_to_the_errors_two_digits(value, error, text):
    assert rounded(value, error) == text


def test_the_frontier_is_what_no_other_beats():
    rows = [row(20, 0.5), row(5, 2.0), row(10, 0.7), row(10, 0.9), row(40, 0.6), row(20, 0.5), row(5, None)]
    assert frontier(rows, "mmd") == [1, 2, 0, 5]
    for metric, sign in (("mmd", 1), ("recall", -1)):
        rows = [
            row(n, v, metric=metric) for n, v in zip([random.Random(i).randint(1, 30) for i in range(300)], range(300))
        ]
        beaten = {
            i for i, a in enumerate(rows) for b in rows
            if b.nfe <= a.nfe and sign * b.quality[metric].value <= sign * a.quality[metric].value and a is not b
        }  # fmt: skip
        assert set(frontier(rows, metric)) == set(range(300)) - beaten and len(beaten) > 200


def test_ties_and_the_floor_are_two_standard_errors_wide():
    """0.1 and 0.1 make 0.1414 of a difference: 1.28 is within two of 1, and 1.29 is not."""
    assert quality([row(value=1.0), row(value=1.28), row(value=1.29), row(value=None)], "mmd").ties == {0, 1}
    assert quality([row(value=1.0, error=0.0), row(value=1.0, error=0.0)], "mmd").ties == {0, 1}
    near = 2 * 0.05  # two deviations of what real samples score
    assert at_floor([row(value=0.5 + 0.999 * near), row(value=0.5 + 1.001 * near), row(value=0.1)], "mmd") == {0, 2}
    high = [row(value=0.5 - 0.999 * near, metric="recall"), row(value=0.5 - 1.001 * near, metric="recall")]
    assert at_floor(high, "recall") == {0}
    assert floor([row(), row(floor=0.7)], "mmd") == pytest.approx((0.6, 0.15))
    assert floor([row(value=None)], "mmd") is None
    exact = [row(value=0.0, error=0.0, floor=0.0, floor_error=0.0)]
    assert floor(exact, "mmd") is None and at_floor(exact, "mmd") == set() and len(answers(exact, "mmd")) == 2


def test_the_answer_names_the_best_the_cheapest_as_good_and_the_floor():
    rows = [
        row(100, 0.50, sampler="A"),
        row(40, 0.55, sampler="B"),
        row(20, 0.72, sampler="C"),
        row(5, 3.0, sampler="D"),
    ]
    best, cheap, real = answers(rows, "mmd")
    assert best[0] == "Best" and "A, 100 steps" in best[1] and "0.50 ± 0.10" in best[2]
    assert "C, 20 steps" in cheap[1] and "20 NFE, 2.00 s" in cheap[2]
    assert "B, 40 steps" in real[1] and "floor 0.500 ± 0.050" in real[2] and "2 of 4" in real[2]
    alone = answers(rows[3:], "mmd")
    assert alone[1][1] == "the same" and alone[2][1] == "none" and "50.0 deviations" in alone[2][2]
    assert answers([row(value=None)], "mmd")[0][1] == "none"


def test_the_table_is_aligned_and_best_first():
    rows = comparison()
    lines = table(rows, ["sliced_wasserstein", "recall"]).splitlines()
    assert max(map(len, lines)) <= 120
    body = [line for line in lines if "Heun()" in line or "DDIM()" in line]
    order = quality(rows, "sliced_wasserstein").order
    assert len(body) == len(rows)
    for line, i in zip(body, order):
        assert rounded(rows[i].quality["sliced_wasserstein"].value, 0.0031 + 1e-5)[0] in line
        assert line.startswith("*") == (i in frontier(rows, "sliced_wasserstein"))
        assert line[2:].startswith(rows[i].process)
    assert len({line.index("(") for line in body if "VP()" in line}) == 1
    assert len({line.index("±") for line in body}) == 1, "the first metric's errors stand in one column"
    assert any(line.strip().startswith("floor") and "0.03100 ± 0.00090" in line for line in lines)


def test_a_table_that_is_too_wide_says_what_it_leaves_out():
    rows = [replace(r, sampler="my_package.samplers.Mine(order=3, rule='published')") for r in comparison()]
    text = table(rows, METRICS, width=90, limit=3)
    assert max(map(len, text.splitlines())) <= 90 and "…" in text
    assert "not shown: mmd, recall, flow_error" in text and "21 more rows" in text
    one = [r for r in rows if r.process == "VP()" and r.prediction == "v"]
    assert "in all rows: process VP(), prediction v" in table(one, METRICS, width=90)
    assert "error  " not in table([row()], ["mmd"]) and "–" in table([row(value=None)], ["mmd"])


def test_the_csv_keeps_every_digit(tmp_path):
    rows = comparison()
    write_csv(tmp_path / "results.csv", rows, METRICS)
    lines = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert list(lines[0])[:10] == [
        "process", "prediction", "sampler", "steps", "nfe", "seconds",
        "sliced_wasserstein", "sliced_wasserstein_standard_error", "sliced_wasserstein_floor",
        "sliced_wasserstein_floor_error",
    ]  # fmt: skip
    assert list(lines[0])[-3:] == ["flow_error_floor_error", "bits_per_dim", "bits_error"]
    for line, cell in zip(lines, rows, strict=True):
        estimate = cell.quality["sliced_wasserstein"]
        assert float(line["sliced_wasserstein"]) == estimate.value and float(line["seconds"]) == cell.seconds
        assert float(line["sliced_wasserstein_floor_error"]) == estimate.floor_error
        assert (line["mmd"] == "") == ("mmd" not in cell.quality) and (line["bits_error"] == "") == (
            cell.bits_error is None
        )

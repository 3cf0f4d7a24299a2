"""A comparison as text, CSV, picture and page: ranked by hand, drawn in place, opened in a real browser."""

import csv
import math
import random
import struct
import zlib
from dataclasses import replace
from io import BytesIO

import pytest

pytest.importorskip("matplotlib")

from matplotlib.colors import to_hex

from scoresde.compare import Row, page, pareto
from scoresde.compare.table import answers, at_floor, columns, floor, frontier, quality, rounded, table, write_csv
from scoresde.metrics import Estimate
from tests.browser import launched, opened, overflow, unseen

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


def picture(path, side=256):
    """A grey PNG of noise, which does not compress: cut in half, half of its lines are missing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + random.Random(i).randbytes(side) for i in range(side))
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    )
    return path


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
    for line, row in zip(lines, rows, strict=True):
        estimate = row.quality["sliced_wasserstein"]
        assert float(line["sliced_wasserstein"]) == estimate.value and float(line["seconds"]) == row.seconds
        assert float(line["sliced_wasserstein_floor_error"]) == estimate.floor_error
        assert (line["mmd"] == "") == ("mmd" not in row.quality) and (line["bits_error"] == "") == (
            row.bits_error is None
        )


def test_what_cannot_be_is_refused(tmp_path):
    for write in (lambda: table([], ["mmd"]), lambda: page.write(tmp_path / "p.html", "", [], ["mmd"])):
        with pytest.raises(ValueError, match="at least one Row"):
            write()
    with pytest.raises(ValueError, match=r"unknown metric 'mdm'.*Did you mean 'mmd'"):
        page.write(tmp_path / "p.html", "", [row()], ["mdm"])
    with pytest.raises(ValueError, match="at least one metric"):
        page.write(tmp_path / "p.html", "", [row()], [])
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        page.write(tmp_path / "p.html", "", [row()], ["mmd"], {"samples": tmp_path / "nowhere.png"})
    assert not list(tmp_path.iterdir())


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


@pytest.fixture(scope="module")
def browser():
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    rows, sample = comparison(), picture(folder / "samples.png")
    about = {"config.yaml": "data: digits\n" + "x" * 500, "environment.txt": "torch"}
    page.write(
        folder / "report.html", "Which sampler?", rows, METRICS, {"VP()": sample, "VE()": sample}, about, ["A note."]
    )
    return folder / "report.html", rows


def shown_rows(visit):
    return [
        tuple(cells[1:5])
        for cells in visit.evaluate(
            "[...document.querySelectorAll('tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
        )
    ]


def missorted(visit, rows, metrics, among=None):
    """The headers that do not sort as Python does, up and down, what is missing last."""
    edge = set(frontier(rows, metrics[0]))
    keys = [[1 if i in edge else None for i in range(len(rows))], *(list(c.values) for c in columns(rows, metrics))]
    order, wrong = list(quality(rows, metrics[0]).order), []
    for k in among or range(len(keys)):
        values = keys[k]
        header, directions = visit.locator("thead th").nth(k), set()
        for _ in range(2):
            header.locator("button").click()
            directions.add(direction := header.get_attribute("aria-sort"))
            known = [i for i in order if values[i] is not None]
            known.sort(key=lambda i, values=values: values[i], reverse=direction == "descending")
            order = known + [i for i in order if values[i] is None]
            names = [(r.process, r.prediction, r.sampler, str(r.steps)) for r in (rows[i] for i in order)]
            if shown_rows(visit) != names:
                wrong.append((header.inner_text(), direction))
        assert directions == {"ascending", "descending"} and visit.locator("thead th[aria-sort]").count() == 1
    return wrong


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_opens_without_a_fault(browser, report, width, dark):
    path, _ = report
    with opened(browser, path, width, dark) as (visit, faults):
        assert unseen(visit) == [] and visit.locator("img").count() == 2
        assert visit.locator("svg").count() == len(METRICS) and visit.locator("svg").first.bounding_box()["width"] > 300
        for summary in visit.locator("summary").all():
            summary.click()
        assert visit.locator("details[open]").count() == 5
        assert overflow(visit) == 0 and faults == []
        assert contrast(visit, "body") > 10 and contrast(visit, ".quiet") > 4.5 and contrast(visit, "td.best") > 7
        assert contrast(visit, "svg g#text_1 g", "fill") > 10
        assert (luminance(visit.evaluate("getComputedStyle(document.body).backgroundColor")) < 0.2) == dark


def luminance(color):
    parts = [float(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(visit, selector, kind="color"):
    """WCAG's ratio of an element's colour to what is behind it."""
    ink, paper = visit.evaluate(
        """([selector, kind]) => {
            const element = document.querySelector(selector);
            let behind = element;
            while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
            return [getComputedStyle(element)[kind], getComputedStyle(behind).backgroundColor];
        }""",
        [selector, kind],
    )
    light, dim = sorted((luminance(ink), luminance(paper)), reverse=True)
    return (light + 0.05) / (dim + 0.05)


def test_every_header_sorts_by_the_numbers(browser, report):
    path, rows = report
    with opened(browser, path) as (visit, faults):
        assert visit.locator("thead th").nth(7).get_attribute("aria-sort") == "ascending"
        assert missorted(visit, rows, METRICS) == [] and faults == []


def test_the_keyboard_sorts_and_words_filter(browser, report):
    path, rows = report
    with opened(browser, path) as (visit, _):
        visit.locator("input").focus()
        for _ in range(7):
            visit.keyboard.press("Tab")  # the table's box, then six headers
        assert visit.evaluate("document.activeElement.textContent") == "NFE"
        visit.keyboard.press("Enter")
        assert [int(names[3]) for names in shown_rows(visit)] == sorted(r.steps for r in rows)
        visit.locator("input").fill("ve HEUN")
        assert (
            visit.locator("tbody tr:visible").count() == 6 and visit.locator("[role=status]").inner_text() == "6 of 24"
        )
        visit.locator("input").fill("nothing like it")
        assert visit.locator("tbody tr:visible").count() == 0


def test_the_page_marks_what_is_best(browser, report):
    path, rows = report
    with opened(browser, path) as (visit, _):
        best = quality(rows, "sliced_wasserstein")
        cells = visit.locator("tbody td:nth-child(8)")
        marks = [set((cell.get_attribute("class") or "").split()) for cell in cells.all()]
        reached = at_floor(rows, "sliced_wasserstein")
        for i, mark in zip(best.order, marks):
            tied = {"tie"} if i in best.ties and i != best.order[0] else {"best"} if i == best.order[0] else set()
            assert mark == tied | ({"floored"} if i in reached else set())
        assert any("tie" in mark for mark in marks)
        diamonds = visit.locator("tbody td.mark").all_inner_texts()
        assert [i for i, d in zip(best.order, diamonds) if d == "◆"] == [
            i for i in best.order if i in frontier(rows, "sliced_wasserstein")
        ]
        assert visit.locator("thead tr").nth(1).locator("td").nth(7).inner_text() == "0.03100 ± 0.00090"


def test_without_scripts_the_page_says_as_much(browser, report):
    path, rows = report
    with opened(browser, path, script=False) as (visit, faults):
        assert faults == [] and visit.locator("tbody tr").count() == len(rows)
        assert not visit.locator("input").is_visible() and visit.locator(".answers").first.is_visible()


def test_names_that_are_markup_stay_names(browser, tmp_path):
    evil = "</pre></title><script>window.evil = 1</script><img src=x onerror='window.evil = 1'>"
    rows = [replace(row(n), process=f"<b>{evil}", sampler=f'"{evil}', prediction="{{ 7 * 7 }}") for n in (5, 10)]
    image = picture(tmp_path / "a'b&<i>.png")
    page.write(tmp_path / "r.html", evil, rows, ["mmd"], {evil: image}, {evil: evil}, [evil])
    with opened(browser, tmp_path / "r.html") as (visit, faults):
        assert faults == [] and unseen(visit) == [] and overflow(visit) == 0
        assert (
            visit.evaluate("window.evil") is None and visit.title() == evil and visit.locator("h1").inner_text() == evil
        )
        assert shown_rows(visit)[0][:3] == (f"<b>{evil}", "{{ 7 * 7 }}", f'"{evil}')
        assert visit.locator("script").count() == 1 and visit.locator("img").count() == 1
        assert visit.locator("pre").text_content() == evil


def test_a_broken_page_is_seen(browser, report, tmp_path):
    """The checks above can fail: each plant, and which of them finds it."""
    path, rows = report
    good, broken = path.read_text(), tmp_path / "broken.html"

    def planted(old, new):
        assert old in good
        broken.write_text(good.replace(old, new, 1))
        return opened(browser, broken)

    with planted("<header>", '<header><img src="http://example.invalid/x.png">') as (visit, faults):
        assert len(unseen(visit)) == 1 and any("Content Security Policy" in fault for fault in faults)
        assert "fetches http://example.invalid/x.png" in faults
    start = good.index("data:image/png;base64,")
    end = good.index('"', start)
    with planted(good[start:end], good[start : (start + end) // 2]) as (visit, _):
        assert unseen(visit) == ["VP()"]
    with planted("<header>", "<header><script src='http://example.invalid/x.js'></script>") as (_, faults):
        assert faults
    with planted("const table", "undefined_name(); const table") as (_, faults):
        assert any("undefined_name" in fault for fault in faults)
    with planted("<header>", "<header><div style='width: 2000px'>wide</div>") as (visit, _):
        assert overflow(visit) > 500
    for old, new in (
        ("text ? (a < b", "true ? (a < b"),
        ('a === "" || b === ""', "false"),
        ("up ? compare", "true ? compare"),
    ):
        with planted(old, new) as (visit, _):
            assert missorted(visit, rows, METRICS, among=(5, 8))

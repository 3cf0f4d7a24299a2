"""A comparison as a page, opened in a real browser."""

import random
import struct
import zlib
from dataclasses import replace

import pytest

pytest.importorskip("matplotlib")
from scoresde.compare import page
from scoresde.compare.table import at_floor, columns, frontier, quality, table
from tests.browser import launched, opened, overflow, unseen
from tests.rows import METRICS, comparison, row


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

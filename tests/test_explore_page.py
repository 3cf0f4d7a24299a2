"""The page with sliders, opened in a real browser: what it shows is what Python knows."""

from base64 import b64decode
from io import BytesIO
from itertools import product

import numpy as np
import pytest
from PIL import Image

from scoresde.explore import Control, Lines, Numbers, Picture, Plane, Scene, lessons, page, write
from scoresde.explore.codes import said
from scoresde.explore.scene import frames
from tests.browser import launched, opened, overflow
from tests.test_explore import KINDS, TIMES, scene

SCRIPT = (page.HERE / "page.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def browser():
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("explore") / "explore.html"
    assert write(path, {"first": scene(), "second": scene("Another")}) == path.stat().st_size
    return path


def settled(visit):
    """Wait for the frame that is drawn next."""
    visit.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def go(visit, section, place):
    """Put a section's controls at these positions, by the keyboard where they are sliders."""
    for control, at in zip(visit.locator(f"#{section} .control").all(), place):
        slider, menu = control.locator("input[type=range]"), control.locator("select")
        if slider.count():
            slider.focus()
            last = int(slider.get_attribute("max"))
            visit.keyboard.press("End" if at == last else "Home")
            for _ in range(at if at < last else 0):
                visit.keyboard.press("ArrowRight")
        elif menu.count():
            menu.select_option(index=at)
        else:
            control.locator("input").nth(at).check()
    settled(visit)


def drawn(visit, section):
    """What each panel shows: its pixels as text, or its table's cells."""
    return visit.evaluate(
        """name => [...document.querySelectorAll(`#${name} figure`)].map(figure => {
            const canvas = figure.querySelector("canvas.panel");
            return canvas ? canvas.toDataURL() : [...figure.querySelectorAll("td")].map(cell => cell.textContent);
        })""",
        section,
    )


def pixels(visit, section, panel):
    """The colours of a panel: (H, W, 4)."""
    url = drawn(visit, section)[panel]
    return np.asarray(Image.open(BytesIO(b64decode(url.partition(",")[2]))).convert("RGBA"), dtype=float)


def inked(visit, image, name):
    """The pixels of one colour of the page, by rows and columns, and how much of it they have."""
    hexed = visit.evaluate("name => getComputedStyle(document.documentElement).getPropertyValue(name)", f"--{name}")
    color = [int(hexed[i : i + 2], 16) for i in (1, 3, 5)]
    rows, columns = np.nonzero((np.abs(image[..., :3] - color).max(-1) < 12) & (image[..., 3] > 40))
    return rows, columns, image[rows, columns, 3]


def wrong(visit, section="first"):
    """The positions at which the picture or the numbers are not Python's."""
    known, found = scene(), []
    for place in product(range(2), range(6)):
        go(visit, section, place)
        grey = np.clip(np.asarray(known.panels[0].frames)[place], -1, 1)
        image, cells = pixels(visit, section, 0), drawn(visit, section)[4]
        numbers = [said(known.panels[4].rows["level"][place], 4), str(place[1]), "–"]
        shown = visit.locator(f"#{section} output").inner_text()
        off = np.abs(image[..., 0] / 127.5 - 1 - grey).max() > 1.01 / 255
        if off or cells != numbers or shown != f"{TIMES[place[1]]:.1f}":
            found.append(place)
    return found


def test_the_keyboard_goes_through_every_frame(browser, path):
    with opened(browser, path) as (visit, faults):
        assert wrong(visit) == [] and faults == []
        assert visit.locator("#second output").inner_text() == "0.4", "the other section stays where it was"


def test_the_mouse_and_a_script_move_it_too(browser, path):
    with opened(browser, path) as (visit, faults):
        slider, before = visit.locator("#first input[type=range]"), drawn(visit, "first")
        box = slider.bounding_box()
        visit.mouse.click(box["x"] + box["width"] - 4, box["y"] + box["height"] / 2)
        settled(visit)
        after = drawn(visit, "first")
        assert visit.locator("#first output").inner_text() == "1.0" and slider.get_attribute("aria-valuetext") == "1.0"
        assert all(a != b for a, b in zip(before, after)) and after[4] == ["1.000", "5", "–"]
        slider.evaluate("slider => { slider.value = 2; slider.dispatchEvent(new Event('input', {bubbles: true})); }")
        settled(visit)
        assert drawn(visit, "first") == before
        visit.locator("#first .segments label", has_text="square").click()
        settled(visit)
        assert drawn(visit, "first")[4][0] == said(0.16, 4) == "0.1600"
        visit.keyboard.press("ArrowLeft")
        settled(visit)
        assert drawn(visit, "first") == before and faults == []


def test_curves_are_where_they_should_be(browser, path):
    """A level curve's row is linear in its level: 0 at the bottom, 1 at the top, within 1.5 pixels."""
    with opened(browser, path) as (visit, _):
        heights = {}
        for i, k in product(range(2), range(6)):
            go(visit, "first", (i, k))
            image = pixels(visit, "first", 1)
            middle = image.shape[1] // 2
            heights[i, k] = inked(visit, image[:, middle + 10 : middle + 18], "hue1")[0].mean()
        bottom, top = heights[0, 0], heights[0, 5]
        assert bottom - top > 150
        for (i, k), height in heights.items():
            assert abs(height - (bottom + (top - bottom) * TIMES[k] ** (i + 1))) < 1.5, (KINDS[i], k)


def moving():
    """A point at three places, an arrow from the middle away from them, and a bump beside them."""
    places = np.array([[-0.8, -0.8], [0.1, 0.4], [0.8, 0.6]])
    x, y = np.meshgrid(*[(np.arange(80) + 0.5) / 40 - 1] * 2)
    bump = np.stack([np.exp(-((x + a / 2) ** 2 + (y - b / 2) ** 2) / 0.02) for a, b in places])
    arrows = {"arrow": np.repeat(-places[:, None], 16, 1)}
    square = (-1, 1, -1, 1)
    planes = [Plane("p", square, None, {"point": places[:, None]}, arrows, np.zeros((16, 2))), Plane("d", square, bump)]
    return Scene("moving", "", [Control("k", ["0", "1", "2"])], planes), places


def test_points_arrows_and_densities_are_where_they_should_be(browser, tmp_path):
    """Two pixels of about 400, along y too, which a screen counts downwards; three for what is soft or has a head."""
    built, places = moving()
    write(tmp_path / "p.html", {"moving": built})
    points, tips, peaks = [], [], []
    with opened(browser, tmp_path / "p.html") as (visit, _):
        for k, (a, b) in enumerate(places):
            go(visit, "moving", (k,))
            rows, columns, _ = inked(visit, image := pixels(visit, "moving", 0), "hue0")
            points.append((columns.mean(), rows.mean()))
            rows, columns, _ = inked(visit, image, "hue1")
            tips.append((columns.min() if a > 0 else columns.max(), rows.max() if b > 0 else rows.min()))
            rows, columns, share = inked(visit, pixels(visit, "moving", 1)[8:-40, 40:-20], "faint")
            peaks.append((columns @ share / share.sum(), rows @ share / share.sum()))
    points, tips, peaks = map(np.array, (points, tips, peaks))
    scale = (points[2] - points[0]) / (places[2] - places[0])
    assert scale[0] > 150 and abs(scale[0] + scale[1]) < 0.02 * scale[0], "square, and y is up"
    middle = points[0] - scale * places[0]
    assert np.abs(points - middle - scale * places).max() < 2
    reach = 1.5 * np.sqrt(4 / 16) / np.hypot(0.8, 0.8)
    assert np.abs(tips - middle + scale * reach * places).max() < 3
    assert np.abs(peaks - peaks[0] - scale * (places - places[0]) * [-0.5, 0.5]).max() < 3


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_opens_without_a_fault(browser, path, width):
    with opened(browser, path, width) as (visit, faults):
        light = drawn(visit, "first")
        assert overflow(visit) == 0 and visit.locator(".controls:visible").count() == 2
        assert visit.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        visit.emulate_media(color_scheme="dark")
        settled(visit)
        dark = drawn(visit, "first")
        assert visit.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 28)"
        assert [a == b for a, b in zip(light, dark)] == [True, False, False, False, True], "pictures stay, colours turn"
        visit.set_viewport_size({"width": width - 60, "height": 900})
        settled(visit)
        assert overflow(visit) == 0 and pixels(visit, "first", 1).shape[1] == visit.locator(
            "#first .lines canvas.panel"
        ).first.evaluate("canvas => canvas.clientWidth")
        assert faults == []


def test_a_slider_plays_to_its_end(browser, path):
    with opened(browser, path) as (visit, faults):
        button = visit.get_by_role("button", name="Play t").first
        button.click()
        visit.locator("#first output", has_text="1.0").wait_for(timeout=5000)
        visit.locator("#first button", has_text="▶").wait_for(timeout=5000)
        settled(visit)
        assert drawn(visit, "first")[4][1] == "5" and faults == []
        visit.emulate_media(reduced_motion="reduce")
        assert not button.is_visible()


def test_what_a_reader_hears(browser, path):
    with opened(browser, path) as (visit, _):
        assert (
            visit.get_by_role("slider", name="t").count() == 2 and visit.get_by_role("group", name="law").count() == 2
        )
        assert (
            visit.get_by_role("radio", name="square").count() == 2
            and visit.get_by_role("img", name="plane").count() == 2
        )
        assert visit.get_by_role("rowheader", name="level").count() == 2


def test_without_scripts_the_page_says_what_it_needs(browser, path):
    with opened(browser, path, script=False) as (visit, faults):
        assert visit.locator("noscript p").is_visible() and faults == []
        assert visit.locator(".controls:visible, .panels:visible").count() == 0 and visit.locator("h2").count() == 2


def test_names_that_are_markup_stay_names(browser, tmp_path):
    evil = "</script></style><script>window.evil = 1</script><img src=x onerror='window.evil = 1'>{{ 7 * 7 }}"
    zeros = np.arange(2.0)
    panels = [
        Numbers({evil: zeros}, title=evil),
        Lines(evil, [0, 1], {evil: zeros[:, None] * [1, 1], "b": zeros[:, None] * [1, 2]}, evil, evil),
    ]
    for kind in ("slider", "choice"):
        write(tmp_path / "e.html", {"named": Scene(evil, evil, [Control(evil, ["a", evil], kind)], panels)})
        with opened(browser, tmp_path / "e.html") as (visit, faults):
            assert faults == [] and visit.evaluate("window.evil") is None and visit.locator("img").count() == 0
            assert visit.locator("h2").inner_text() == evil and visit.locator("th").inner_text() == evil
            assert overflow(visit) == 0


@pytest.mark.slow
def test_a_broken_page_is_seen(browser, path, tmp_path):
    """The checks above can fail: each plant, and which of them finds it."""
    good, broken = path.read_text(encoding="utf-8"), tmp_path / "broken.html"

    def planted(old, new, script=True):
        assert old in good
        html = good.replace(old, new, 1)
        if script:  # with its new hash, or the policy would not let it run
            html = html.replace(*(page._hash(text).strip("'") for text in (SCRIPT, SCRIPT.replace(old, new, 1))))
        broken.write_text(html, encoding="utf-8")
        return opened(browser, broken)

    start = (0, 2)
    with planted('control.addEventListener("input"', 'control.addEventListener("nothing"') as (visit, _):
        assert len(wrong(visit)) >= 11
    with planted("soon(); });", "});") as (visit, _):
        assert len(wrong(visit)) == 11 and start not in wrong(visit), "the slider says so, the panels do not follow"
    with planted("index * shape[i] +", "index +") as (visit, _):
        assert (1, 0) in wrong(visit), "frames of the wrong choice"
    with planted(".subarray(start, start + this.size)", ".subarray(start + 1, start + 1 + this.size)") as (visit, _):
        assert len(wrong(visit)) >= 11, "pictures shifted by one"
    with planted("document.querySelectorAll(", "undefined_name(), document.querySelectorAll(") as (_, faults):
        assert any("undefined_name" in fault for fault in faults)
    with planted('"use strict"', '"use strict" ', script=False) as (visit, faults):
        assert any("Content Security Policy" in fault for fault in faults), "only the script that was written may run"
        assert visit.locator(".controls:visible").count() == 0
    with planted("<header>", '<header><img src="http://example.invalid/x.png">', script=False) as (_, faults):
        assert "fetches http://example.invalid/x.png" in faults


@pytest.mark.slow
@pytest.mark.parametrize("name", page.SCENES)
def test_a_lessons_scene_does_as_its_controls_say(browser, tmp_path, name):
    """Every control changes every panel whose frames it leads, and what is drawn differs where the frames do."""
    lesson = lessons.load(name)
    built = lesson.scene(lesson.measure(True, "cpu"))
    assert write(tmp_path / "s.html", {name: built}) < 1e6, "five of them below 5 MB"
    middle = [control.start for control in built.controls]
    with opened(browser, tmp_path / "s.html") as (visit, faults):
        for axis, control in enumerate(built.controls):
            ends = [[*middle[:axis], at, *middle[axis + 1 :]] for at in (0, len(control.values) - 1)]
            shown = []
            for place in ends:
                go(visit, name, place)
                shown.append(drawn(visit, name))
            for panel, one, other in zip(built.panels, *shown):
                assert (one != other) == differs(panel, *ends), (control.name, panel.title)
        assert faults == [] and overflow(visit) == 0
    with opened(browser, tmp_path / "s.html", 390) as (visit, faults):
        assert faults == [] and overflow(visit) == 0


def differs(panel, one, other):
    """Whether a panel is not the same at two positions."""

    def at(values, place):
        array = np.asarray(values)
        return array[tuple(i if n > 1 else 0 for i, n in zip(place, array.shape))]

    def seen(values, place):
        frame = at(values, place)
        if isinstance(panel, Numbers):
            return said(frame, panel.digits)
        return frame.clip(panel.low, panel.high) if isinstance(panel, Picture) else frame

    return any(np.any(seen(values, one) != seen(values, other)) for _, values, _ in frames(panel))

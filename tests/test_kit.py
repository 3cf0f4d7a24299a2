"""The kit's own machinery: reports, test items, what is refused; and that it changes nothing around it."""

import random
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from scoresde import VP, Forward, Process, log_prob
from scoresde.guidance import classifier_free
from scoresde.samplers import DDIM
from scoresde.testing import (
    PROPERTIES,
    Property,
    check_dynamics,
    check_guidance,
    check_likelihood,
    check_prediction,
    check_process,
    check_sampler,
    examine,
    properties,
    properties_of,
)
from scoresde.testing.kit import WIDTH, Case, Inapplicable, Report, apart, reported, short, stating

pytest_plugins = ["pytester"]


def below(limit, needs=()):
    """A property of numbers: 0, 1, 2, ... up to the number itself are below a limit."""

    @stating(
        f"is below {limit}", "Numbers are small.", proof="counting", change="Count less.",
        examples=lambda n: [(f"k = {k}", k) for k in range(n + 1)], needs=needs,
    )  # fmt: skip
    def judge(n, k):
        if k == 7:
            raise RuntimeError("seven")
        return None if k < limit else f"{k} is not"

    return judge


def test_the_first_example_that_fails_is_the_counter_example():
    finding = below(3).find(5)
    assert not finding.passed and (finding.where, finding.what) == ("k = 3", "3 is not")
    assert (finding.wrong, finding.tried) == (3, 6)
    assert str(finding).splitlines()[:3] == [
        "is below 3",
        "  where   k = 3 (and 2 more of 6)",
        "  found   3 is not",
    ]
    assert below(6).find(5).passed and below(6).find(5).tried == 6


def test_what_a_part_raises_is_a_finding():
    what = below(100).find(8).what
    line = int(re.fullmatch(r"raises RuntimeError: seven \(at test_kit.py:(\d+) in judge\)", what)[1])
    assert "seven" in Path(__file__).read_text().splitlines()[line - 1]
    assert "  change  The part itself fails here: call it so." in str(below(100).find(8))

    @stating("never", "", proof="", change="", examples=lambda n: 1 / n)
    def judge(n, k):
        return None

    assert judge.find(0).what.startswith("raises ZeroDivisionError") and "before the first" in judge.find(0).where


def test_advice_about_what_is_raised_and_lines_of_the_package():
    for raised, shown in ((None, "Count."), ("Call.", "Call.")):

        @stating(
            "never", "", proof="", change="Count.", raised=raised,
            examples=lambda n: [("", None)],
        )  # fmt: skip
        def judge(n, k):
            torch.zeros(2) @ torch.zeros(3)

        assert str(judge.find(0)).endswith(f"  change  {shown}") and "(at test_kit.py:" in judge.find(0).what

    row = properties(lambda process, t: [1.0, 2.0], "prediction", processes=[VP()])[0].find()
    assert "raises TypeError" in row.what and "(at " not in row.what  # refused by the package
    assert "processes=[VP()], say. A row is a tuple of two" in row.property.raised


def test_the_entry_that_differs_most():
    one = torch.tensor([[1.0, 2.0], [3.0, float("nan")]])
    other = torch.tensor([[1.0, 2.5], [3.1, float("nan")]])
    assert apart(one, other) == (1, "2 and 2.5, apart by 0.5")
    assert apart(torch.tensor([1.0, float("nan")]), torch.ones(2))[0] == 1


def test_a_property_says_nothing_while_what_it_needs_fails():
    small, tiny = below(3), below(1)
    one, other = below(2, needs=(small,)), below(2, needs=(tiny,))
    assert not one.find(2).passed
    assert other.find(2).passed and other.find(2).reason == "first mend: is below 1"
    assert other.find(2).verdict == "–" and one.find(1).verdict == "passed"


def test_inapplicable():
    @stating("never", "", proof="", change="", examples=lambda n: [("", None)])
    def judge(n, k):
        raise Inapplicable("it is a number")

    finding = judge.find(0)
    assert finding.passed and str(finding) == "never: it is a number"
    report = Report("0", (finding, below(1).find(0)))
    assert report.passed and str(report).endswith("all 1 properties that apply hold")


def test_a_report_is_a_table_that_names_what_failed():
    report = reported([Case(each, "five", 5) for each in (below(9), below(3), below(1))])
    shown = str(report).splitlines()
    assert report.failed == ("is below 3", "is below 1") and not report.passed
    assert shown[0] == "five" and max(map(len, shown)) <= WIDTH
    assert shown[2].split() == ["is", "below", "9", "passed"]
    assert shown[3].split() == ["is", "below", "3", "FAILED", "k", "=", "3:", "3", "is", "not"]
    assert "  means   Numbers are small." in shown and "  change  Count less." in shown
    assert shown[-1] == "failed, 2 of 3: is below 3, is below 1"
    with pytest.raises(AssertionError, match="failed, 2 of 3"):
        report.raise_for_failures()
    good = reported([Case(below(9), "five", 5)])
    assert good.raise_for_failures() is good and str(good).endswith("all 1 properties hold")


def test_long_findings_are_cut_in_the_table_and_whole_below():
    @stating("long", "m" * 150, proof="", change="", examples=lambda n: [("here", None)])
    def judge(n, k):
        return "word " * 60

    shown = str(reported([Case(judge, "0", 0)])).splitlines()
    assert (
        max(map(len, shown)) <= 150 and shown[2].endswith("…") and sum(line.count("word") for line in shown[3:]) == 60
    )


def test_cases_are_called_and_named():
    case = Case(below(3), "five", 5)
    assert str(case) == "is below 3"
    with pytest.raises(AssertionError, match=r"five: is below 3\n  where   k = 3"):
        case()
    assert Case(below(9), "five", 5)().passed


@pytest.mark.parametrize("kind", PROPERTIES)
def test_every_property_says_what_it_is(kind):
    names = [str(each) for each in PROPERTIES[kind]]
    assert len(set(names)) == len(names) >= 6
    for each in PROPERTIES[kind]:
        assert isinstance(each, Property) and each.name.isascii() and len(each.name) <= 36
        assert each.meaning.endswith(".") and each.change.endswith(".") and each.proof
        assert set(each.needs) <= set(PROPERTIES[kind]) and each not in each.needs


def test_numbers_are_shown_short():
    assert short(0.123456789) == "0.123457" and short(torch.tensor([1.0])) == "1"
    assert short(torch.arange(6.0)) == "[0, 1, 2, 3, …]" and short(3) == "3"


class Drawing(VP):
    """Draws from every global source, as it should not."""

    def prior(self, shape, generator=None):
        return torch.randn(shape) + random.random() + np.random.rand()


def test_random_states_are_left_as_they_were():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert examine(Drawing()).failed == ("prior is the noise of x_T",)
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


def test_reports_are_the_same_every_time():
    assert str(examine(VP())) == str(examine(VP()))


# --- kinds and items -------------------------------------------------------------------------------------------


def test_the_kind_is_that_of_the_part():
    for part, kind in ((VP(), "process"), (Forward(VP()), "dynamics"), ("v", "prediction"), (DDIM(), "sampler")):
        settings = {"dynamics": {"t0": 0.1, "t1": 0.9}, "sampler": {"order": 1}}.get(kind, {})
        assert [case.property for case in properties(part, **settings)] == list(PROPERTIES[kind])
    assert properties(lambda process, t: (1.0, -1.0), "prediction")[0].property is PROPERTIES["prediction"][0]
    assert properties(classifier_free, "guidance")[0].part == "classifier_free"
    assert properties(log_prob, "likelihood")[0].part == "log_prob"
    assert properties(partial(log_prob, nodes=24), "likelihood")[0].part == "log_prob"
    assert properties(lambda model: model, "guidance")[0].part == "guidance <lambda>"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: check_process(VP), TypeError, r"write VP\(\)"),
        (lambda: check_process("VP"), TypeError, "process must be a Process"),
        (lambda: check_prediction("nois"), ValueError, "Did you mean .noise."),
        (lambda: check_prediction(3), TypeError, "prediction must be a name or a function"),
        (lambda: check_prediction("v", []), ValueError, "processes must hold at least one"),
        (lambda: check_prediction("v", ["VP"]), TypeError, "processes must be a Process"),
        (lambda: check_sampler(DDIM, 1), TypeError, r"write DDIM\(\)"),
        (lambda: check_sampler(DDIM(), 0), ValueError, "order must be positive"),
        (lambda: check_sampler(DDIM(), 1, "weka"), ValueError, "Did you mean 'weak'"),
        (lambda: check_sampler(lambda n: n, 1), TypeError, r"sampler\(n\) must be a Sampler"),
        (lambda: check_dynamics(VP(), 0, 1), TypeError, "dynamics must be a Dynamics"),
        (lambda: check_dynamics(Forward(VP()), 1, 1), ValueError, "t0 and t1 must differ"),
        (lambda: check_dynamics(Forward(VP()), 0, 1, law=3), TypeError, "law must be a function"),
        (lambda: check_dynamics(Forward(VP()), 0, 1, law=lambda t: t), TypeError, r"law\(t0\) must be a Target"),
        (lambda: check_sampler(DDIM(), 1, foo=3), TypeError, "check_sampler, which takes order, kind, .*; got foo"),
        (lambda: check_sampler(DDIM(), 1, processes=[]), ValueError, "processes must hold at least one"),
        (lambda: examine(DDIM()), TypeError, "check_sampler, which takes order, kind.*; got missing .*'order'"),
        (lambda: examine(VP(), foo=1), TypeError, "check_process, which takes none; got .*'foo'"),
        (lambda: examine(DDIM(), order=1, foo=3), TypeError, "settings must be those of check_sampler"),
        (lambda: check_guidance(classifier_free, toward=2), ValueError, "toward must be one class, or 6 of them"),
        (lambda: check_guidance(classifier_free, toward=[0, 1]), ValueError, "toward must be one class"),
        (lambda: check_guidance(classifier_free, toward=0.5), TypeError, "toward must be"),
        (lambda: check_guidance(classifier_free, exact=3), TypeError, "exact must be a function"),
        (lambda: check_guidance(3), TypeError, "guide must be a function"),
        (lambda: check_guidance(lambda a, b, c: a), TypeError, "got 3 arguments"),
        (lambda: check_guidance(classifier_free, samples=1), ValueError, "samples must be at least 2"),
        (lambda: check_likelihood(3), TypeError, "function must be callable"),
        (lambda: check_likelihood(log_prob, tolerance=0), ValueError, "tolerance must be positive"),
        (lambda: properties(VP), TypeError, r"write VP\(\)"),
        (lambda: properties(lambda: 0), TypeError, "say what it is"),
        (lambda: properties(VP(), "proces"), ValueError, "Did you mean 'process'"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_each_property_is_a_test_item(pytester):
    pytester.makepyfile(
        """
        import pytest, torch
        from scoresde import VP, Process
        from scoresde.testing import properties, properties_of

        class Rising(Process):
            def alpha(self, t):
                return 1 + t
            def sigma(self, t):
                return 9 * t

        test_mine = properties_of(Rising())

        @pytest.mark.parametrize("case", properties("v", processes=[VP()]), ids=str)
        def test_row(case):
            case()
        """
    )
    result = pytester.runpytest_inprocess("-v", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=len(PROPERTIES["process"]) - 1 + len(PROPERTIES["prediction"]), failed=1)
    result.stdout.fnmatch_lines(["*::test_mine?alpha falls? FAILED*", "*goes from 1 to 2*"])


def test_items_that_say_nothing_are_skipped(pytester):
    pytester.makepyfile(
        """
        from scoresde import VP, Forward
        from scoresde.testing import properties_of

        test_mine = properties_of(Forward(VP()), t0=0.1, t1=0.9)
        """
    )
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(
        passed=len(PROPERTIES["dynamics"]) - 1, skipped=1
    )


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["hypothesis", "pytest"])
def test_the_package_works_without_its_test_extra(missing):
    use = {"hypothesis": "from scoresde.testing import strategies", "pytest": "testing.properties_of(scoresde.VP())"}
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "import scoresde\nfrom scoresde import testing\n"
        "assert testing.examine('v', processes=[scoresde.VP()]).passed\n"
        f"try:\n    {use[missing]}\n"
        f"except ImportError as error:\n    assert 'scoresde[testing]' in str(error) and {missing!r} in str(error)\n"
        "else:\n    raise SystemExit(1)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_your_own_process_in_six_lines_passes_and_all_tables_fit():
    class Trigonometric(Process):
        def alpha(self, t):
            return torch.cos(t * torch.pi / 2)

        def sigma(self, t):
            return torch.sin(t * torch.pi / 2)

    shown = str(check_process(Trigonometric()))
    assert "Trigonometric()" in shown and max(map(len, shown.splitlines())) <= WIDTH
    assert properties_of(Trigonometric()) is not properties_of(Trigonometric())

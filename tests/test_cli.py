"""The command line: words and YAML become the arguments of functions, and what is wrong is one line."""

import csv
import subprocess
import sys

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from scoresde import VE, cli, demo
from scoresde.cli import main
from scoresde.cli.calls import Problem, built, call_of
from scoresde.cli.values import Word, read, written
from scoresde.cli.words import options_of, values_of
from scoresde.process import Process
from scoresde.samplers import DDIM, DPMSolverPP, LangevinCorrector, PredictorCorrector, Sampler

COMMANDS = list(cli.COMMANDS)


def printed(capsys, *words):
    """What --print_config prints, read."""
    assert main([*words, "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def wrong(capsys, *words):
    """The one line on stderr of words that are refused."""
    assert main(list(words)) == 2
    out, lines = capsys.readouterr()
    assert not out and len(lines.splitlines()) == 1
    return lines.strip()


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)], ids=lambda words: "".join(words) or "all")
def test_help_reads_well(words, capsys):
    assert main([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: scoresde") and max(map(len, shown.splitlines())) <= 80
    assert "torch.nn" not in shown and len(shown.splitlines()) <= 100
    if words:
        assert all(f"--{name} " in shown or name.upper() in shown for name in options_of(cli.COMMANDS[words[0]].load()))


def test_every_option_says_what_it_is():
    for command in cli.COMMANDS.values():
        for option in options_of(command.load()).values():
            assert option.help, (command.path, option.name)


def test_help_names_what_there_is(capsys):
    main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name in ("SubVP", "ddpm", "UNet", "DiT", "checkerboard", "velocity", "min_snr", "logit_normal", "optimal"):
        assert name in shown
    assert main(["train", "--process.help", "VE"]) == 0
    shown = capsys.readouterr().out
    assert "--process.sigma_max float (default: 50.0)" in shown and "Variance exploding" in shown


def test_the_page_of_all_tells_exit_codes_and_completion(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)
    assert "2 wrong input, 130 interrupted" in shown and "--print_completion bash" in shown


def test_python_dash_m():
    done = subprocess.run([sys.executable, "-m", "scoresde", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("scoresde 0.")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--quiet"], {"quiet": True}),
        (["--quiet", "true"], {"quiet": True}),
        (["--quiet=false"], {"quiet": False}),
        (["--quiet", "--lr", "1e-4"], {"quiet": True, "lr": 1e-4}),
        (["--batch-size", "7"], {"batch_size": 7}),
        (["--process", "VP", "--process.beta_max", "15"], {"process": "VP(beta_min=0.1, beta_max=15.0)"}),
        (["--process.beta_max", "15", "--process", "VP"], {"process": "VP(beta_min=0.1, beta_max=15.0)"}),
        (["--process", "VP(beta_max=15)"], {"process": "VP(beta_min=0.1, beta_max=15.0)"}),
        (["--process", "VP(0.2, 15)"], {"process": "VP(beta_min=0.2, beta_max=15.0)"}),
        (["--process", "scoresde.VE"], {"process": "scoresde.VE(sigma_min=0.01, sigma_max=50.0)"}),
        (["--process", "null"], {"process": None}),
        (["--net", "UNet(width=8)", "--net.multipliers", "[1, 2]"], {}),
        (["--data_options.n", "5", "--data_options.label", "species"], {"data_options": {"n": 5, "label": "species"}}),
        (["--data_options", "{n: 5}"], {"data_options": {"n": 5}}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_words(words, expected, capsys):
    assert printed(capsys, "train", *words).items() >= expected.items()


def test_lists_take_several_words(capsys):
    words = ["--processes", "VP", "VE(sigma_max=20)", "--samplers", "DPMSolverPP(3)", "--steps", "5", "10", "--quick"]
    values = printed(capsys, "compare", "--data", "digits", *words)
    assert values["processes"] == ["VP(beta_min=0.1, beta_max=20.0)", "VE(sigma_min=0.01, sigma_max=20.0)"]
    assert values["samplers"][0].startswith("DPMSolverPP(order=3") and values["steps"] == [5, 10] and values["quick"]
    words = ["--processes", "[VP, 'VE(sigma_max=20)']", "--steps", "[5, 10]", "--samplers", "DPMSolverPP(3)", "--quick"]
    assert printed(capsys, "compare", "--data", "digits", *words) == values


@pytest.mark.parametrize("name", COMMANDS)
def test_print_config_given_back_is_the_same(name, tmp_path, capsys):
    words = {"train": ["--process", "VE", "--net", "UNet(width=8)"], "sample": ["r", "--sampler", "DDIM(eta=0.5)"]}
    one = printed(capsys, name, *words.get(name, []))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(one))
    assert printed(capsys, name, "--config", str(tmp_path / "c.yaml")) == one


def test_words_go_before_a_config_and_that_before_defaults(tmp_path, capsys):
    config = tmp_path / "c.yaml"
    config.write_text("lr: 1e-2\nsteps: 7\nprocess:\n  class_path: VP\n  init_args:\n    beta_max: 15\n")
    values = printed(capsys, "train", "--lr", "0.5", "--process.beta_min", "0.2", "--config", str(config))
    assert (values["lr"], values["steps"], values["ema"]) == (0.5, 7, 0.999)
    assert values["process"] == "VP(beta_min=0.2, beta_max=15.0)"


def test_objects_are_built(tmp_path):
    options = options_of(cli.COMMANDS["sample"].load())
    words = ["r", "--sampler", "PredictorCorrector(predictor=DDIM(eta=0.5))", "--shape", "1", "8", "8"]
    words += ["--sampler.corrector", "LangevinCorrector", "--sampler.corrector.snr", "0.3"]
    values = {name: built(value, name) for name, value in values_of(words, options, "sample").items()}
    assert values["sampler"] == PredictorCorrector(DDIM(eta=0.5), LangevinCorrector(snr=0.3))
    assert values["shape"] == (1, 8, 8)
    values = values_of(["--net", "MLP", "--net.width", "8"], options_of(cli.COMMANDS["train"].load()), "train")
    assert built(values["net"], "net")((3,)).arguments["width"] == 8


NUMBERS = st.floats(1e-6, 1e6)


@given(low=NUMBERS, high=NUMBERS, order=st.integers(1, 3), eta=st.floats(0, 1))
def test_what_is_written_is_read_again(low, high, order, eta):
    kinds = {"process": Process, "samplers": list[Sampler], "many": tuple[float, ...], "text": str}
    calls = {
        "process": f"VE({low!r}, {max(low * 2, high)!r})",
        "samplers": [f"DPMSolverPP(order={order}, eta={eta!r})"],
    }
    given = {**calls, "many": [low, high], "text": str(order)}
    first = {name: read(given[name], kinds[name], name) for name in kinds}
    again = {name: read(value, kinds[name], name) for name, value in yaml.safe_load(written(first)).items()}
    one, two = built(first, ""), built(again, "")
    assert one == two == {
        "process": VE(low, max(low * 2, high)), "samplers": [DPMSolverPP(order, eta)], "many": (low, high),
        "text": str(order),
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["VP(beta_max=__import__('os').getcwd())", "(lambda: VP)()", "VP(**{})", "VP(*[1])", "VP if 1 else VE", "VP()()",
     "VP;VE", "[VP][0]", "VP(beta_max=open('x'))", "3", "", "f'{VP}'", "VP(beta_max=1+1)"],
)  # fmt: skip
def test_a_call_is_names_and_literals_only(text):
    with pytest.raises(Problem):
        built(read(Word(text), Process, "process"), "process")


def test_no_function_is_called_to_find_out_what_it_makes(capsys):
    for name in ("os.system", "subprocess.call", "builtins.exec", "scoresde.runs.train"):
        assert "must be a class below" in wrong(capsys, "train", "--process", name)
        assert "must be a class below" in wrong(capsys, "train", "--net", name)
    assert call_of("os.system('x')", "process").target is None


WRONG = [
    # words                                         what the line says
    ("dmo", "scoresde: there is no command 'dmo'; known: demo, train"),
    ("train --lrr 3", "scoresde train: --lrr: train has no such option. Did you mean 'lr'?"),
    ("train --lr abc", "scoresde train: lr: must be a number, got 'abc'"),
    ("train --steps 1.5", "scoresde train: steps: must be a whole number, got '1.5'"),
    ("train --steps true", "scoresde train: steps: must be a whole number, got 'true'"),
    ("train --steps", "scoresde train: steps: needs a value"),
    ("train --quiet=maybe", "scoresde train: quiet: must be true or false, got 'maybe'"),
    ("train stray", "scoresde train: what is 'stray'?"),
    ("train --process VPP", "scoresde train: process: unknown 'VPP'; known: "),
    ("train --process VPP", "or your own by module.Name. Did you mean 'VP'?"),
    ("train --process VP --process.beta_mx 3",
     "scoresde train: process.beta_mx: VP has no such option; it takes beta_min, beta_max. Did you mean 'beta_max'?"),
    ("train --process VP(beta_mx=3)", "process.beta_mx: VP has no such option; it takes beta_min, beta_max."),
    ("train --process VP(1,2,3)", "process: VP has too many arguments; it takes beta_min, beta_max"),
    ("train --process VP(1,beta_min=2)", "process.beta_min: is given twice"),
    ("train --process VP --process.beta_max abc", "process.beta_max: must be a number, got 'abc'"),
    ("train --process VP(beta_min=-1)", "process: beta_min must be positive, got -1"),
    ("train --process Discrete", "process.betas: must be given"),
    ("train --process VP(", "process: must be a name or a short call, such as VP or 'VP(beta_max=15)', got 'VP('"),
    ("train --process.beta_max 3", "process.beta_max: write --process too"),
    ("train --process nowhere.Mine", "process: cannot import 'nowhere'"),
    ("train --process scoresde.VQ", "process: the module 'scoresde' has no 'VQ'. Did you mean"),
    ("train --net.width 3", "net.width: write --net too, such as --net MLP"),
    ("train --net UNet --net.widh 3", "net.widh: UNet has no such option; it takes width, "),
    ("train --prediction.x 3", "prediction.x: prediction has no parts"),
    ("train --data_options 3", "data_options: must be a mapping"),
    ("sample", "scoresde sample: run: must be given: scoresde sample RUN"),
    ("sample nowhere", "scoresde sample: there is no run 'nowhere'"),
    ("sample r --shape 1 x", "shape[1]: must be a whole number, got 'x'"),
    ("sample r --sampler DPMSolverPP(order=7)", "sampler: order must be one of"),
    ("sample r --sampler DPMSolverPP(method=singlestp)", "sampler.method: unknown 'singlestp'; known: multistep"),
    ("sample r --sampler PredictorCorrector(predictor=VP)", "sampler.predictor: unknown 'VP'; known: DDIM"),
    ("compare --samplers DDIM Adms", "samplers[1]: unknown 'Adms'; known: "),
    ("compare --samplers.order 3", "samplers.order: write it inside the call"),
    ("demo --device quantum", "device 'quantum' cannot be used"),
    ("demo --steps 0", "steps must be at least 1, got 0"),
    ("demo --out /dev/null/x --steps 1", "Not a directory"),
    ("certify --only DDIN", "unknown sampler 'DDIN'; known: "),
    ("--print_completion fish", "must be one of bash, zsh, tcsh"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "says"), WRONG)
def test_what_is_wrong_is_one_line(words, says, capsys):
    if words.startswith("demo --out"):
        pytest.importorskip("sklearn")
    assert main(words.split()) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and says in lines[0] and lines[0].startswith("scoresde")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stepz: 3", "scoresde train: stepz: train has no such option (in "),
        ("steps: many", "steps: must be a whole number, got 'many'"),
        ("steps: [3", "is no YAML (line 1: "),
        ("just words", "must hold options, one a line"),
        ("process: {class_path: VP, init_args: {beta: 3}}", "process.beta: VP has no such option"),
        ("process: {class: VP}", "process: must be a name or a short call"),
        ("process: {class_path: VP, init_args: [1]}", "process.init_args: must be a mapping"),
        ("out: ''", "out: must be a path, got ''"),
        ("data: ''", "must be a name or a path, got an empty text"),
        ("process: VP(beta_max=x)", "process.beta_max: must be a number, got 'x'"),
        ("data_options: 3", "data_options: must be a mapping"),
        ("quiet: 3", "quiet: must be true or false, got '3'"),
        ("data: 3", "data: must be text, got '3'"),
        ("data: ~", "data: must be text, got 'None'"),
        ("3: 4", "3: train has no such option"),
        ("\x00", "is no YAML"),
    ],
)
def test_a_wrong_config_is_one_line(text, says, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(text)
    assert says in wrong(capsys, "train", "--config", str(tmp_path / "c.yaml"))


def test_a_config_that_is_not_there_or_no_text(tmp_path, capsys):
    assert "no.yaml cannot be read: No such file" in wrong(capsys, "train", "--config", str(tmp_path / "no.yaml"))
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read: no text" in wrong(capsys, "train", "--config", str(tmp_path / "c.yaml"))


def by_accident(steps: int = 1):
    return steps + "1"


def on_purpose(steps: int = 1):
    raise ValueError("mine, not of the package")


@pytest.mark.parametrize("function", ["by_accident", "on_purpose"])
def test_a_bug_keeps_its_traceback(function, monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "train", cli.Command(f"{__name__}:{function}", "a bug"))
    with pytest.raises((TypeError, ValueError)):
        main(["train"])


def test_code_of_ones_own_keeps_its_traceback(tmp_path, monkeypatch):
    """Even where this package refuses what that code gave it."""
    monkeypatch.chdir(tmp_path)
    source = "from scoresde import VP, targets\n\ndef two():\n"
    source += "    return targets.GaussianMixture([1.0], [[0.0], [1.0]], 1.0)\n"
    source += "\nclass Bad(VP):\n    def __init__(self, k: int = 1):\n        super().__init__(beta_min=-1.0)\n"
    (tmp_path / "mine_bad.py").write_text(source)
    for words in (["compare", "--target", "mine_bad.two"], ["train", "--process", "mine_bad.Bad"]):
        with pytest.raises(ValueError) as caught:
            main([*words, "--out", "run", "--quiet"])
        assert any("mine_bad.py" in str(entry.path) for entry in caught.traceback)


def test_the_current_folder_is_seen_only_while_a_command_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    (tmp_path / "yaml.py").write_text("raise SystemExit('a file of the folder took the place of a package')")
    (tmp_path / "theirs.py").write_text("from scoresde import VP\nclass Theirs(VP):\n    pass\nnot_one = 3\n")
    assert printed(capsys, "train", "--process", "theirs.Theirs(beta_max=9)")["process"].startswith("theirs.Theirs(")
    assert "must be a class below Process" in wrong(capsys, "train", "--process", "theirs.not_one")
    (tmp_path / "torn.py").write_text("def f(:\n")
    assert "cannot import 'torn'" in wrong(capsys, "train", "--process", "torn.Mine")
    assert sys.path == before
    sys.modules.pop("theirs")


def test_bash_completes(tmp_path):
    script = subprocess.run(
        [sys.executable, "-m", "scoresde", "--print_completion", "bash"], capture_output=True, text=True, check=True
    ).stdout
    (tmp_path / "complete.sh").write_text(script)
    asked = 'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_scoresde; echo "${COMPREPLY[*]}"'

    def complete(*words):
        line = f"source {tmp_path}/complete.sh; {asked}"
        done = subprocess.run(["bash", "-c", line, "-", "scoresde", *words], capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert complete("tr") == ["train"]
    assert complete("train", "--pro") == ["--process"]
    assert set(complete("train", "--process", "V")) == {"VP", "VE"}
    assert complete("sample", "--sampler", "DPMSolverP") == ["DPMSolverPP"]
    assert set(complete("")) == set(COMMANDS)


@pytest.mark.slow
def test_the_demo_writes_its_table_and_pictures(tmp_path, capsys):
    rows = demo.run(tmp_path, torch.device("cpu"), steps=30, samples=40, held_out=24, quiet=True)
    assert len(rows) == 8 and len({row.process for row in rows}) == 4
    with (tmp_path / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["process"] for row in table] == [row.process for row in rows]
    assert [int(row["nfe"]) for row in table][:2] == [19, 101]
    for picture in ("samples.png", "losses.png"):
        assert (tmp_path / picture).read_bytes()[:4] == b"\x89PNG"
    shown = capsys.readouterr().out
    assert "sliced W" in shown and "bits/dim" in shown and max(map(len, shown.splitlines()[:-1])) <= 100

"""The command line and the demo, at reduced size."""

import csv
import subprocess
import sys

import pytest
import torch

from scoresde import demo
from scoresde.cli import main


def test_help_reads_well(capsys):
    for arguments in (["--help"], ["demo", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
        shown = capsys.readouterr().out
        assert "usage: scoresde" in shown and max(map(len, shown.splitlines())) <= 80
    assert main([]) == 0 and "demo" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dmo"], "invalid choice"),
        (["demo", "--steps", "0"], "whole number"),
        (["demo", "--device", "quantum"], "--device"),
        (["demo", "--out", "/dev/null/x", "--steps", "1"], "scoresde:"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_2(arguments, message, capsys):
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert message in shown[-1] and "Traceback" not in "".join(shown)


def test_python_dash_m():
    done = subprocess.run([sys.executable, "-m", "scoresde", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("scoresde 0.")


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

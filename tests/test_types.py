"""pyright has nothing to say of the package (basic rules)."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("node"), reason="pyright runs on node")
def test_types():
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if "errors, " not in done.stdout:
        pytest.skip(f"pyright could not be fetched: {done.stderr.strip()[-200:]}")
    assert "\n0 errors, 0 warnings" in f"\n{done.stdout}", done.stdout

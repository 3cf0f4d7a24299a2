"""Dependencies only go down, and only solve.py knows the solver packages."""

import ast
from pathlib import Path

import pytest

import scoresde
from tests.docs import layout

ROOT = Path(scoresde.__file__).parent
LAYERS, LEAVES = ([set(names) for _, names in layout.LAYERS], set(layout.LEAVES[1]))


def part(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(source):
    """The modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layers"
            yield from ([f"scoresde.{a.name}" for a in node.names] if node.module == "scoresde" else [node.module])


def rank(name):
    return next(i for i, layer in enumerate(LAYERS) if name in layer)


def faults(name, source):
    """What the layers forbid in a file that belongs to part `name`."""
    found = []
    for module in imports(source):
        top, *rest = module.split(".")
        if top in ("torchdiffeq", "torchsde") and name != "solve":
            found.append(f"{name} imports {top}")
        if top != "scoresde" or not rest or rest[0] == name:
            continue
        if name in LEAVES:
            found.append(f"{name} is a leaf, but imports {module}")
        elif rest[0] in LEAVES:
            continue
        elif not (ROOT / rest[0]).exists() and not (ROOT / f"{rest[0]}.py").exists():
            if name not in ("cli",):
                found.append(f"{name} imports {module} from the top")
        elif rank(rest[0]) > rank(name):
            found.append(f"{name} imports {module} from above")
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_import_goes_up(path):
    assert not faults(part(path), path.read_text())


def test_an_upward_import_is_seen():
    assert faults("process", "from scoresde.model import Model")
    assert faults("model", "def f():\n    from scoresde import samplers")
    assert faults("samplers", "import torchsde")
    assert faults("networks", "from scoresde.process import VP")
    assert not faults("samplers", "from scoresde.model import Model\nfrom scoresde import networks")


def test_there_are_no_cycles_between_parts():
    arrows = {}
    for path in ROOT.rglob("*.py"):
        for module in imports(path.read_text()):
            top, *rest = module.split(".")
            if top == "scoresde" and rest and part(path) not in ("__init__", "__main__") and rest[0] != part(path):
                arrows.setdefault(part(path), set()).add(rest[0])

    def reach(name, seen):
        for other in arrows.get(name, ()):
            if other not in seen:
                seen.add(other)
                reach(other, seen)
        return seen

    for name in arrows:
        assert name not in reach(name, set()), name


def test_files_stay_short():
    for path in ROOT.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 400, path
    assert not (ROOT / "utils.py").exists()


def test_import_changes_no_global_state():
    import subprocess
    import sys

    code = (
        "import torch, random; a = torch.get_rng_state(); g = torch.is_grad_enabled(); d = torch.get_default_dtype(); "
        "n = torch.get_num_threads(); r = random.getstate(); import scoresde; import sys; "
        "assert torch.equal(a, torch.get_rng_state()) and g == torch.is_grad_enabled() and r == random.getstate(); "
        "assert d == torch.get_default_dtype() and n == torch.get_num_threads(); "
        "assert 'matplotlib' not in sys.modules and 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""The scripts of docs/, which are in no package, as modules."""

import sys
from importlib import import_module
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"

sys.path.insert(0, str(DOCS))
equations, layout, reference = map(import_module, ("equations", "layout", "reference"))
sys.path.remove(str(DOCS))

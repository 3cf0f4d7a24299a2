"""How the documentation is built: sphinx-build -W docs docs/_build; every page of the API comes from the docstrings."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import reference

import scoresde

project, author, release = "scoresde", "The scoresde developers", scoresde.__version__
extensions = ["myst_parser"]
html_theme, html_title = "furo", "scoresde"
myst_heading_anchors = 4
exclude_patterns = ["_build"]
html_theme_options = {"top_of_page_buttons": []}


def setup(app):
    app.connect("builder-inited", lambda _: reference.write(Path(__file__).parent / "api"))

"""How the documentation is built: sphinx-build -W docs docs/_build; every page of the API comes from the docstrings."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import equations
import reference

import scoresde

project, author, release = "scoresde", "The scoresde developers", scoresde.__version__
extensions = ["myst_parser"]
html_theme, html_title = "furo", "scoresde"
myst_heading_anchors = 4
exclude_patterns = ["_build"]
html_static_path, html_css_files = ["_static"], ["style.css"]
copyright = f"2026, {author}"
html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": []}


def setup(app):
    app.connect("builder-inited", lambda _: reference.write(Path(__file__).parent / "api"))
    app.connect("source-read", typeset)


def typeset(app, name, source):
    if name == "theory":
        source[0] = equations.typeset(source[0])

"""The lessons, all into one folder, with a page that shows them."""

from scoresde.figures.run import LESSONS, figures

__all__ = ["LESSONS", "figures"]

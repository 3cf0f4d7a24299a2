"""Interactive figures: one page with sliders, precomputed, that fetches nothing."""

from scoresde.explore.page import SCENES, explore, write
from scoresde.explore.scene import Control, Lines, Numbers, Picture, Plane, Scene

__all__ = ["SCENES", "Control", "Lines", "Numbers", "Picture", "Plane", "Scene", "explore", "write"]

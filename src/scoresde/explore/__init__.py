"""Interactive figures: one page with sliders, precomputed, that fetches nothing."""

from scoresde.explore.scene import Control, Lines, Numbers, Picture, Plane, Scene

__all__ = ["Control", "Lines", "Numbers", "Picture", "Plane", "Scene"]

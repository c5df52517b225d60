"""Analysis of layers: singular spectra and Lipschitz bounds (section 4.3), units and directions (section 3)."""

from advlab.analysis.frames import FrameBounds, frame_bounds, singular_spectrum

__all__ = ["FrameBounds", "frame_bounds", "singular_spectrum"]

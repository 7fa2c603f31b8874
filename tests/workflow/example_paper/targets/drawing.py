"""How the example draws."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray


def points(axes: Axes, place: int, values: NDArray[np.float64], label: str) -> None:
    """Values above each other at ``place``."""
    axes.plot([place] * len(values), values, "o", label=label)

"""The paper's figures, from records."""

from __future__ import annotations

from papers.sama.targets.cost import figure1
from papers.sama.targets.timeline import figure2

FIGURES = {"figure1": figure1, "figure2": figure2}

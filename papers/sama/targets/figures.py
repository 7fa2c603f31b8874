"""The paper's figures and ours, by topic in the modules beside this one."""

from __future__ import annotations

from papers.sama.targets.approximations import figure_adaptation
from papers.sama.targets.auxiliary import figure_auxiliary
from papers.sama.targets.cost import figure1
from papers.sama.targets.pruning import figure3
from papers.sama.targets.timeline import figure2
from papers.sama.targets.weak_labels import figure_noisy_labels

FIGURES = {
    "figure1": figure1,
    "figure2": figure2,
    "figure3": figure3,
    "figure_adaptation": figure_adaptation,
    "figure_auxiliary": figure_auxiliary,
    "figure_noisy_labels": figure_noisy_labels,
}

"""The papers' figures and ours, by topic in the modules beside this one."""

from __future__ import annotations

from papers.cover_song.targets.matrices import figure_matrices
from papers.cover_song.targets.networks import figure_epochs, figure_training

FIGURES = {
    "figure_epochs": figure_epochs,
    "figure_matrices": figure_matrices,
    "figure_training": figure_training,
}

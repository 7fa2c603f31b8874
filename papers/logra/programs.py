"""Programs that the experiments run."""

from __future__ import annotations

from common.config import Programs

PROGRAMS = Programs(
    subset_retraining="papers.logra.subset_retraining",
    linear_datamodeling_score="papers.logra.linear_datamodeling_score",
    brittleness="papers.logra.brittleness",
    language_brittleness="papers.logra.language_brittleness",
    retrieval="papers.logra.retrieval",
    language_retraining="papers.logra.language_retraining",
    language_datamodeling="papers.logra.language_datamodeling",
    sensitivity="papers.logra.sensitivity",
    spectrum="papers.logra.spectrum",
    mislabel_detection="papers.logra.mislabel_detection",
    efficiency="papers.logra.efficiency",
    projection_cost="papers.logra.projection_cost",
    store_precision="papers.logra.store_precision",
)

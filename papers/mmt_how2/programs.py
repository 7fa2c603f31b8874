"""Programs that the experiments run."""

from __future__ import annotations

from common.config import Programs

PROGRAMS = Programs(
    split_sizes="papers.mmt_how2.split_sizes",
    feature_spectrum="papers.mmt_how2.feature_spectrum",
    translation="papers.mmt_how2.translation",
    recognition_errors="papers.mmt_how2.recognition_errors",
    correction="papers.mmt_how2.correction",
)

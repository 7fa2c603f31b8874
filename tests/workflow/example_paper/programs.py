"""Programs that the experiments run, each imported when it is asked for."""

from __future__ import annotations

from common.config import Programs

PROGRAMS = Programs(classify="papers.example_paper.classification")

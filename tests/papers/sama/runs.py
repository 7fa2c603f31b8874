"""Runs of experiments inside a test."""

from __future__ import annotations

from tests.papers.runs import PaperRuns

RUNS = PaperRuns("sama")
FOLDER = RUNS.folder
settings_of, opened, metrics_of = RUNS.settings, RUNS.opened, RUNS.metrics
metrics_after_a_stop = RUNS.metrics_after_a_stop

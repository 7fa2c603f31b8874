"""Programs that the experiments run."""

from __future__ import annotations

from common.config import Programs

PROGRAMS = Programs(
    meta_weight_net="papers.betty.meta_weight_net",
    label_correction="papers.betty.label_correction",
    domain_adaptation="papers.betty.domain_adaptation",
    regression_hpo="papers.betty.regression_hpo",
    implicit_maml="papers.betty.implicit_maml",
    architecture_search="papers.betty.architecture_search",
)

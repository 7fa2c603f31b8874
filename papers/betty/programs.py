"""Programs that the experiments run."""

from __future__ import annotations

from common.config import Program
from papers.betty.architecture_search import ArchitectureSearchSettings, run_architecture_search
from papers.betty.domain_adaptation import DomainAdaptationSettings, run_domain_adaptation
from papers.betty.implicit_maml import ImplicitMAMLSettings, run_implicit_maml
from papers.betty.label_correction import LabelCorrectionSettings, run_label_correction
from papers.betty.meta_weight_net import MetaWeightNetSettings, run_meta_weight_net
from papers.betty.regression_hpo import RegressionSettings, run_regression_hpo

PROGRAMS = {
    "meta_weight_net": Program(MetaWeightNetSettings, run_meta_weight_net),
    "label_correction": Program(LabelCorrectionSettings, run_label_correction),
    "domain_adaptation": Program(DomainAdaptationSettings, run_domain_adaptation),
    "regression_hpo": Program(RegressionSettings, run_regression_hpo),
    "implicit_maml": Program(ImplicitMAMLSettings, run_implicit_maml),
    "architecture_search": Program(ArchitectureSearchSettings, run_architecture_search),
}

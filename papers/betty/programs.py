"""Programs that the experiments run."""

from __future__ import annotations

from common.config import Program
from papers.betty.domain_adaptation import DomainAdaptationSettings, run_domain_adaptation
from papers.betty.label_correction import LabelCorrectionSettings, run_label_correction
from papers.betty.meta_weight_net import MetaWeightNetSettings, run_meta_weight_net

PROGRAMS = {
    "meta_weight_net": Program(MetaWeightNetSettings, run_meta_weight_net),
    "label_correction": Program(LabelCorrectionSettings, run_label_correction),
    "domain_adaptation": Program(DomainAdaptationSettings, run_domain_adaptation),
}

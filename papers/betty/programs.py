"""Programs that the experiments run."""

from __future__ import annotations

from common.config import Program
from papers.betty.meta_weight_net import MetaWeightNetSettings, run_meta_weight_net

PROGRAMS = {
    "meta_weight_net": Program(MetaWeightNetSettings, run_meta_weight_net),
}

"""The paper's tables and ours, by topic in the modules beside this one."""

from __future__ import annotations

from papers.sama.targets.approximations import table_adaptation, table_identity
from papers.sama.targets.auxiliary import table3, table_few_shot
from papers.sama.targets.cost import table2, table_cost
from papers.sama.targets.pruning import table_pruning
from papers.sama.targets.rater import table_rater
from papers.sama.targets.timeline import table_traffic
from papers.sama.targets.weak_labels import table1, table_noisy_labels

TABLES = {
    "table1": table1,
    "table2": table2,
    "table3": table3,
    "table_adaptation": table_adaptation,
    "table_cost": table_cost,
    "table_few_shot": table_few_shot,
    "table_identity": table_identity,
    "table_noisy_labels": table_noisy_labels,
    "table_pruning": table_pruning,
    "table_rater": table_rater,
    "table_traffic": table_traffic,
}

"""Linear datamodeling score of a language model: what is predicted is each query's loss.

Source: Choe et al. 2024, Sec. 4.1 and App. C.1.
"""

from __future__ import annotations

from common.runs.programs import Program
from common.runs.run import Run
from papers.logra.experiments.linear_datamodeling_score import scores_by_query
from papers.logra.experiments.subset_retraining import read_retrained
from papers.logra.methods.attribution import AttributionSettings, attribute
from papers.logra.tasks.language_models import perplexity
from papers.logra.tasks.language_task import LanguageTask, LanguageTaskSettings


class LanguageDatamodelingSettings(LanguageTaskSettings):
    """Which method; the run's seed is that of the attributed model."""

    attribution: AttributionSettings


def run_language_datamodeling(settings: LanguageDatamodelingSettings, run: Run) -> dict[str, float]:
    """Score one attributed model; returns the datamodeling score by loss and by margin."""
    retrained = read_retrained(run.needed("retrained"))
    task = LanguageTask(settings, run)
    train, queries = task.corpus.train, task.corpus.queries
    model = task.model(run.seed)
    scores = attribute(settings.attribution, model, train, queries, run.seed, run.work / "log")
    found = scores_by_query(scores, retrained)
    run.write_json("by_query.json", found.loss.tolist())
    return {
        "lds_by_loss": float(found.loss.mean()),
        "lds_by_margin": float(found.margin.mean()),
        "perplexity": perplexity(model, queries),
    }


PROGRAM = Program(LanguageDatamodelingSettings, run_language_datamodeling)

"""Rescoring of a corrector's candidates by a joint embedding, a language model, and both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import torch
from pydantic import Field

from common.config import Settings
from common.run import Progress
from papers.mmt_how2.generation import Hypothesis, Search
from papers.mmt_how2.heard_speech import HeardSpeech
from papers.mmt_how2.joint_embedding import (
    JointEmbedding,
    JointEmbeddingSettings,
    PictureWords,
    recall_at,
    train_joint_embedding,
)
from papers.mmt_how2.minibatch_training import Minibatches
from papers.mmt_how2.rescoring import Candidate, Choice, Length, NBestLists, grid_search
from papers.mmt_how2.systems import TrainedSystem
from papers.mmt_how2.word_language_model import LanguageModelSettings, train_language_model

#: Retrieval is measured at these ranks; the paper states 1.
RANKS: Final = (1, 10)
#: Weights that are tried; the paper names only those that it found.
WEIGHTS: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


class Rescoring(Settings):
    """Whose candidates are rescored, by which models, and the grid that weights come from."""

    system: str = Field(description="one of the experiment's")
    joint: JointEmbeddingSettings = JointEmbeddingSettings()
    joint_training: Minibatches
    neighbours: int = Field(15, gt=0, description="transcripts that tell a picture's words")
    smoothing: float = Field(0.1, gt=0, description="added to each word's count; not stated")
    language: LanguageModelSettings = LanguageModelSettings()
    language_training: Minibatches
    length: Length = "mean"
    alphas: tuple[float, ...] = Field(
        (0.0, 0.1, 0.2, 0.3, 0.4, 0.5), description="of the embedding"
    )
    betas: tuple[float, ...] = Field((0.0, 0.1, 0.2, 0.3, 0.4, 0.5), description="of the model")
    beams: tuple[int, ...] = Field((5, 13), min_length=1)


class Rescored(NamedTuple):
    """What rescoring chose.

    Attributes:
        best: the chosen candidates of the test split, by what was added to the corrector.
        metrics: of the embedding and of the choices of weights.
        grid: word error rates of all weights and beams on the validation split.
    """

    best: dict[str, list[str]]
    metrics: dict[str, float]
    grid: list[Choice]


class Candidates:
    """The n best of a corrector, scored by itself, a joint embedding and a language model.

    Args:
        speech: its training split is what the two models learn from.
        device: where they learn.
    """

    def __init__(
        self,
        settings: Rescoring,
        corrector: TrainedSystem,
        speech: HeardSpeech,
        search: Search,
        seed: int,
        device: torch.device | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.settings, self.corrector, self.speech, self.search = (
            settings,
            corrector,
            speech,
            search,
        )
        said = speech.said["train"]
        pictures = torch.from_numpy(speech.pictures_of("train"))
        self.joint = train_joint_embedding(
            pictures, said, settings.joint, settings.joint_training, seed, device, progress
        )
        self.words = PictureWords(self.joint, said, settings.neighbours, settings.smoothing)
        self.language = train_language_model(
            said, settings.language, settings.language_training, seed, device, progress
        )

    def lists(self, split: str, beam: int) -> NBestLists:
        """All that a beam search holds at its end, for each utterance of a split."""
        search = self.search.model_copy(update={"beam": beam, "nbest": beam})
        found = self.corrector.translate(split, search).hypotheses
        texts = [[one.text for one in hypotheses] for hypotheses in found]
        pictures = torch.from_numpy(self.speech.pictures_of(split))
        joint = self.words.scores(pictures, texts)
        language = iter(self.language.log_probabilities([text for row in texts for text in row]))
        return NBestLists(
            [
                [
                    candidate(one, of_joint, next(language))
                    for one, of_joint in zip(hypotheses, row, strict=True)
                ]
                for hypotheses, row in zip(found, joint, strict=True)
            ],
            self.speech.said[split],
            self.settings.length,
        )


def candidate(hypothesis: Hypothesis, joint: float, language: float) -> Candidate:
    """A hypothesis with the scores that others give it."""
    scores = hypothesis.token_scores
    return Candidate(hypothesis.text, sum(scores), len(scores), joint, language)


def rescored(candidates: Candidates) -> Rescored:
    """The test split's candidates that the best weights and beam of the validation split choose."""
    settings = candidates.settings
    valid = {beam: candidates.lists("valid", beam) for beam in settings.beams}
    grid = grid_search(valid, settings.alphas, settings.betas)
    kinds = {
        "je": (one for one in grid if one.beta == 0),
        "lm": (one for one in grid if one.alpha == 0),
        "je_lm": iter(grid),
    }
    # The grid is sorted, so the first of a kind is its best.
    chosen = {kind: next(choices) for kind, choices in kinds.items()}
    test = {beam: candidates.lists("test", beam) for beam in beams_of(chosen.values())}
    best = {
        kind: test[choice.beam].best(choice.alpha, choice.beta) for kind, choice in chosen.items()
    }
    metrics: dict[str, float] = {
        "oracle_wer_pct": min(lists.oracle_wer_pct for lists in test.values()),
        "valid_unrescored_wer_pct": min(lists.wer_pct(0, 0) for lists in valid.values()),
        "lm_perplexity": candidates.language.perplexity(candidates.speech.said["test"]),
        **retrieval(candidates.joint, candidates.speech),
    }
    for kind, choice in chosen.items():
        metrics |= {
            f"{kind}_valid_wer_pct": choice.wer_pct,
            f"{kind}_alpha_share": choice.alpha,
            f"{kind}_beta_share": choice.beta,
            f"{kind}_beam_count": choice.beam,
        }
    return Rescored(best, metrics, grid)


def beams_of(choices: Iterable[Choice]) -> Sequence[int]:
    """The beams of some choices, once each."""
    return sorted({choice.beam for choice in choices})


def retrieval(joint: JointEmbedding, speech: HeardSpeech) -> dict[str, float]:
    """How often a test picture's own transcript is among the nearest, in percent, and by chance."""
    pictures = joint.embedded_pictures(torch.from_numpy(speech.pictures_of("test")))
    similarity = pictures @ joint.embedded_text(speech.said["test"]).T
    found = {f"recall_at_{rank}_pct": 100 * recall_at(similarity, rank) for rank in RANKS}
    return {**found, "recall_at_1_by_chance_pct": 100 / len(similarity)}


def grid_rows(grid: Iterable[Choice]) -> list[dict[str, Any]]:
    """The grid as rows of a table."""
    return [choice._asdict() for choice in grid]

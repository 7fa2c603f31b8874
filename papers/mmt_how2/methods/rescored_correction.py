"""Rescoring of a corrector's candidates by a joint embedding, a language model, and both."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from pydantic import Field

from common.experiments.settings import Settings
from common.runs.run import Run
from common.training.checkpoint import Checkpoint
from papers.mmt_how2.corpora.heard_speech import HeardSpeech
from papers.mmt_how2.correction.joint_embedding import (
    JointEmbeddingSettings,
    PictureWords,
    recall_at,
    train_joint_embedding,
)
from papers.mmt_how2.correction.minibatch_training import Minibatches
from papers.mmt_how2.correction.rescoring import Candidate, Choice, Length, NBestLists, grid_search
from papers.mmt_how2.correction.word_language_model import (
    LanguageModelSettings,
    train_language_model,
)
from papers.mmt_how2.methods.systems import TrainedSystem
from papers.mmt_how2.translation.generation import Hypothesis, Search, Translations

#: Retrieval is measured at these ranks; the paper states 1.
RANKS: Final = (1, 10)
#: Weights that are tried; the paper names only those that it found.
WEIGHTS: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


class Rescoring(Settings):
    """Whose candidates are rescored, by which models, and the grid that weights come from."""

    systems: tuple[str, ...] = Field(min_length=1, description="of the experiment's")
    joint: JointEmbeddingSettings = JointEmbeddingSettings()
    joint_training: Minibatches
    neighbours: int = Field(15, gt=0, description="transcripts that tell a picture's words")
    smoothing: float = Field(0.1, gt=0, description="added to each word's count; not stated")
    language: LanguageModelSettings = LanguageModelSettings()
    language_training: Minibatches
    length: Length = "mean"
    alphas: tuple[float, ...] = Field(WEIGHTS, description="of the embedding")
    betas: tuple[float, ...] = Field(WEIGHTS, description="of the model")
    beams: tuple[int, ...] = Field((5, 13), min_length=1)


class Rescored(NamedTuple):
    """What rescoring chose.

    Attributes:
        best: the chosen candidates of the test split, by what was added to the corrector.
        metrics: of the candidates and of the choices of weights.
        grid: word error rates of all weights and beams on the validation split.
    """

    best: dict[str, list[str]]
    metrics: dict[str, float]
    grid: list[Choice]


class Rescorer:
    """A joint embedding and a language model, trained, that score candidates.

    Args:
        speech: its training split is what both learn from.
        run: seeds both, and keeps what they go on from after a kill.
        device: where they learn.
    """

    def __init__(
        self,
        settings: Rescoring,
        speech: HeardSpeech,
        run: Run,
        device: torch.device,
    ) -> None:
        self.settings, self.speech = settings, speech
        said = speech.said["train"]
        pictures = torch.from_numpy(speech.read_pictures("train"))
        self.joint = train_joint_embedding(
            pictures,
            said,
            settings.joint,
            settings.joint_training,
            run.seed,
            device,
            run.progress,
            Checkpoint(run, "joint_embedding"),
        )
        self.words = PictureWords(self.joint, said, settings.neighbours, settings.smoothing)
        self.language = train_language_model(
            said,
            settings.language,
            settings.language_training,
            run.seed,
            device,
            run.progress,
            Checkpoint(run, "language_model"),
        )

    def lists(self, found: Translations, split: str) -> NBestLists:
        """The hypotheses of each utterance of a split, scored."""
        texts = [[one.text for one in hypotheses] for hypotheses in found.hypotheses]
        joint = self.words.scores(torch.from_numpy(self.speech.read_pictures(split)), texts)
        language = iter(self.language.log_probabilities([text for row in texts for text in row]))
        return NBestLists(
            [
                [
                    make_candidate(one, of_joint, next(language))
                    for one, of_joint in zip(hypotheses, row, strict=True)
                ]
                for hypotheses, row in zip(found.hypotheses, joint, strict=True)
            ],
            self.speech.said[split],
            self.settings.length,
        )

    def rescored(self, corrector: TrainedSystem, search: Search, test: Translations) -> Rescored:
        """Candidates of the test split that the validation split's best weights choose.

        Args:
            test: all that ``search`` holds at its end on the test split.
        """

        def lists(split: str, beam: int) -> NBestLists:
            if split == "test" and beam == search.beam:
                return self.lists(test, split)
            wider = keep_all(search.model_copy(update={"beam": beam}))
            return self.lists(corrector.translate(split, wider), split)

        valid = {beam: lists("valid", beam) for beam in self.settings.beams}
        grid = grid_search(valid, self.settings.alphas, self.settings.betas)
        kinds = {
            "je": (one for one in grid if one.beta == 0),
            "lm": (one for one in grid if one.alpha == 0),
            "je_lm": iter(grid),
        }
        # The grid is sorted, so the first of a kind is its best.
        chosen = {kind: next(choices) for kind, choices in kinds.items()}
        tested = {
            beam: lists("test", beam) for beam in sorted({one.beam for one in chosen.values()})
        }
        metrics = {
            "oracle_wer_pct": min(one.oracle_wer_pct for one in tested.values()),
            "valid_wer_pct": min(one.wer_pct(0, 0) for one in valid.values()),
        }
        for kind, choice in chosen.items():
            metrics |= {
                f"{kind}_valid_wer_pct": choice.wer_pct,
                f"{kind}_alpha_share": choice.alpha,
                f"{kind}_beta_share": choice.beta,
                f"{kind}_beam_count": choice.beam,
            }
        best = {
            kind: tested[choice.beam].best(choice.alpha, choice.beta)
            for kind, choice in chosen.items()
        }
        return Rescored(best, metrics, grid)

    def metrics(self) -> dict[str, float]:
        """Perplexity of the test transcripts, and how well the embedding finds them by picture."""
        said = self.speech.said["test"]
        pictures = torch.from_numpy(self.speech.read_pictures("test"))
        similarity = self.joint.embed_pictures(pictures) @ self.joint.embed_text(said).T
        return {
            "language_model_perplexity": self.language.perplexity(said),
            **{f"recall_at_{rank}_pct": 100 * recall_at(similarity, rank) for rank in RANKS},
            "recall_at_1_by_chance_pct": 100 / len(said),
        }


def keep_all(search: Search) -> Search:
    """The search that gives all hypotheses that it holds at its end."""
    return search.model_copy(update={"nbest": search.beam})


def make_candidate(hypothesis: Hypothesis, joint: float, language: float) -> Candidate:
    """A hypothesis with the scores that others give it."""
    scores = hypothesis.token_scores
    return Candidate(hypothesis.text, sum(scores), len(scores), joint, language)

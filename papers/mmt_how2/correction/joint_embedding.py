"""A joint embedding of pictures and transcripts: S_JE of Choe et al. 2019, section 3.3.

A picture's feature goes through a linear layer, a transcript through a GRU, and both land on the
unit sphere, a pair near each other and a non-pair at least a margin farther (after Mithun et al.
2018). The nearest training transcripts of a new picture then say which words go with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from common.data.language_modelling import Vocabulary
from common.errors import InputError
from common.experiments.settings import Settings
from common.progress import Progress
from papers.mmt_how2.correction.minibatch_training import (
    Minibatches,
    States,
    train_network,
)
from papers.mmt_how2.correction.padded_text import PaddedText, encoded, word_vocabulary


class JointEmbeddingSettings(Settings):
    """Sizes and loss; the paper states none of them."""

    width: int = Field(512, gt=0, description="numbers of the joint space")
    word_embedding: int = Field(300, gt=0)
    hidden: int = Field(512, gt=0, description="of the GRU")
    margin: float = Field(0.2, gt=0, description="m of the hinge, on cosines")
    negatives: Literal["all", "hardest"] = Field(
        "all", description="of the batch: the sum over them, as the formula, or the nearest alone"
    )
    least_count: int = Field(1, gt=0, description="rarer words are the unknown word")


class JointEmbedding(nn.Module):
    """Pictures and transcripts as unit vectors, whose products are cosines."""

    def __init__(
        self, picture_width: int, vocabulary: Vocabulary, settings: JointEmbeddingSettings
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.picture = nn.Linear(picture_width, settings.width)
        self.words = nn.Embedding(len(vocabulary), settings.word_embedding)
        self.gru = nn.GRU(settings.word_embedding, settings.hidden, batch_first=True)
        self.text = nn.Linear(settings.hidden, settings.width)

    def encode_pictures(self, features: Tensor) -> Tensor:
        """Features (n, picture width) -> (n, width)."""
        return functional.normalize(self.picture(features), dim=-1)

    def encode_text(self, text: PaddedText) -> Tensor:
        """Rows of words -> (n, width): the GRU's state after the last word."""
        states, _ = self.gru(self.words(text.ids))
        rows = torch.arange(len(text.lengths), device=states.device)
        return functional.normalize(self.text(states[rows, text.lengths - 1]), dim=-1)

    @torch.no_grad()
    def embed_pictures(self, features: Tensor, batch_size: int = 1024) -> Tensor:
        """Unit vectors (n, width) of all pictures, on the CPU."""
        self.eval()
        device = self.text.weight.device
        parts = torch.split(features, batch_size)
        return torch.cat([self.encode_pictures(part.to(device)).cpu() for part in parts])

    @torch.no_grad()
    def embed_text(self, sentences: Sequence[str], batch_size: int = 1024) -> Tensor:
        """Unit vectors (n, width) of all sentences, on the CPU.

        Raises:
            InputError: a sentence has no words.
        """
        self.eval()
        text = encoded(sentences, self.vocabulary)
        device = self.text.weight.device
        parts = torch.split(torch.arange(len(sentences)), batch_size)
        return torch.cat([self.encode_text(text.take(part).to(device)).cpu() for part in parts])


def two_way_hinge(
    similarity: Tensor, margin: float, negatives: Literal["all", "hardest"] = "all"
) -> Tensor:
    """Mean over the pairs of max(0, m - s(v,t) + s(v,t')) + max(0, m - s(v,t) + s(v',t)).

    ``similarity`` (n, n) is of every picture (row) with every text (column), pairs on its
    diagonal. The others of the batch are the non-pairs t' and v': all are summed, or the worst is
    taken (Faghri et al. 2018). One pair has no non-pair and no loss.
    """
    own = similarity.diagonal()
    themselves = torch.eye(len(own), dtype=torch.bool, device=similarity.device)
    wrong_text = (margin - own.unsqueeze(1) + similarity).clamp_min(0).masked_fill(themselves, 0)
    wrong_picture = (margin - own.unsqueeze(0) + similarity).clamp_min(0).masked_fill(themselves, 0)
    if negatives == "hardest":
        return (wrong_text.amax(1) + wrong_picture.amax(0)).mean()
    return (wrong_text.sum(1) + wrong_picture.sum(0)).mean()


def train_joint_embedding(
    features: Tensor,
    transcripts: Sequence[str],
    settings: JointEmbeddingSettings,
    schedule: Minibatches,
    seed: int,
    device: torch.device | None = None,
    progress: Progress | None = None,
    states: States | None = None,
) -> JointEmbedding:
    """A joint embedding of pairs: features (n, picture width) and n transcripts.

    Raises:
        InputError: not one feature vector for each transcript, or a transcript without words.
    """
    if features.dim() != 2 or len(features) != len(transcripts):
        raise InputError(
            f"features {tuple(features.shape)} for {len(transcripts)} transcripts; "
            f"allowed: ({len(transcripts)}, width)"
        )
    device = device or torch.device("cpu")
    vocabulary = word_vocabulary(transcripts, settings.least_count)
    text = encoded(transcripts, vocabulary)
    torch.manual_seed(seed)
    model = JointEmbedding(features.shape[1], vocabulary, settings).to(device)

    def loss(places: Tensor) -> Tensor:
        pictures = model.encode_pictures(features[places].to(device))
        texts = model.encode_text(text.take(places).to(device))
        return two_way_hinge(pictures @ texts.T, settings.margin, settings.negatives)

    train_network(model, loss, len(transcripts), schedule, seed, progress, states)
    return model


def recall_at(similarity: Tensor, k: int) -> float:
    """Share of rows of ``similarity`` (n, n) whose own column is among the k most similar.

    A column as similar as the own one counts as nearer, so that an embedding that tells nothing
    apart recalls nothing. Texts to pictures is the recall of the transpose.
    """
    nearer = (similarity >= similarity.diagonal().unsqueeze(1)).sum(1)  # The own column counts.
    return float((nearer <= k).float().mean())


def nearest(queries: Tensor, among: Tensor, k: int, batch_size: int = 1024) -> Tensor:
    """Places (n, k) of the vectors ``among`` (m, width) with the largest product, nearest first.

    Raises:
        InputError: there are fewer than k.
    """
    if not 1 <= k <= len(among):
        raise InputError(f"neighbours {k}; allowed: 1 to {len(among)}, the number of transcripts")
    return torch.cat(
        [(part @ among.T).topk(k).indices for part in torch.split(queries, batch_size)]
    )


class PictureWords:
    """p(word | picture) of new pictures, by the training transcripts that lie nearest to them.

    The words of the ``neighbours`` transcripts are counted, ``smoothing`` is added to the count of
    every word of the vocabulary, the unknown one included, and the sum is scaled to one. The
    paper takes 15 neighbours and does not state how it smooths.
    """

    def __init__(
        self,
        model: JointEmbedding,
        transcripts: Sequence[str],
        neighbours: int = 15,
        smoothing: float = 0.1,
    ) -> None:
        if not smoothing > 0:
            raise InputError(f"smoothing {smoothing}; allowed: above 0")
        self.model = model
        self.text = encoded(transcripts, model.vocabulary)
        self.vectors = model.embed_text(transcripts)
        self.neighbours = neighbours
        self.smoothing = smoothing

    def log_chances(self, features: Tensor) -> Iterator[Tensor]:
        """log p (words,) of the vocabulary, picture by picture of features (n, picture width)."""
        found = nearest(self.model.embed_pictures(features), self.vectors, self.neighbours)
        for places in found:
            near = self.text.take(places)
            words = near.ids[near.present]
            counts = torch.bincount(words, minlength=len(self.model.vocabulary)) + self.smoothing
            # The end of a sentence is no word that a transcript could hold.
            counts[0] = 0
            yield (counts / counts.sum()).log()

    def scores(self, features: Tensor, candidates: Sequence[Sequence[str]]) -> list[list[float]]:
        """S_JE of each picture's candidate sentences: the sum of log p(word | picture).

        The order of words does not count (naive Bayes), and a candidate without words has 0.

        Raises:
            InputError: not one list of candidates for each picture.
        """
        if len(features) != len(candidates):
            raise InputError(
                f"{len(candidates)} lists of candidates for {len(features)} pictures; "
                "one for each is needed"
            )
        encode = self.model.vocabulary.encode
        return [
            [float(chances[torch.tensor(encode(text.split()))].sum()) for text in texts]
            for chances, texts in zip(self.log_chances(features), candidates, strict=True)
        ]

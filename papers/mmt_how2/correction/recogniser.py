"""A small speech recogniser, whose errors a corrector then learns to mend.

It stands in for the paper's listen-attend-and-spell network (which its claims do not need): layers
of convolution over time, of which the first halves it, an LSTM from each end, and characters by
CTC (Graves et al. 2006). At the size given here it learns the built-in synthetic speech in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from common.data.language_modelling import Vocabulary
from common.errors import InputError
from common.experiments.settings import Settings
from common.progress import Progress
from papers.mmt_how2.correction.ctc_decoding import decode_best_path, prefix_search
from papers.mmt_how2.correction.minibatch_training import (
    Minibatches,
    States,
    train_network,
)
from papers.mmt_how2.correction.padded_text import padded

CTC_BLANK = "<blank>"


class RecogniserSettings(Settings):
    """Sizes of the network; ours."""

    convolutions: int = Field(2, gt=0)
    width: int = Field(64, gt=0, description="channels of a convolution")
    kernel: Literal[3, 5, 7, 9] = Field(5, description="frames that a convolution sees")
    hidden: int = Field(64, gt=0, description="of each LSTM")
    layers: int = Field(1, gt=0, description="of each LSTM")
    dropout: float = Field(0.0, ge=0, lt=1)


class Recogniser(nn.Module):
    """Characters, or the blank, of every second frame."""

    def __init__(self, inputs: int, alphabet: Vocabulary, settings: RecogniserSettings) -> None:
        super().__init__()
        self.alphabet = alphabet
        widths = [inputs, *[settings.width] * settings.convolutions]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(
                before, after, settings.kernel, 1 if place else 2, padding=settings.kernel // 2
            )
            for place, (before, after) in enumerate(pairwise(widths))
        )
        self.dropout = nn.Dropout(settings.dropout)
        # Two LSTMs of one direction: torch's of two directions needs packed sequences to start at
        # the end of each utterance, with which it trains five times more slowly on a CPU.
        self.forwards, self.backwards = (
            nn.LSTM(settings.width, settings.hidden, settings.layers, batch_first=True)
            for _ in range(2)
        )
        self.output = nn.Linear(2 * settings.hidden, len(alphabet))

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (n, t, inputs), zero after each one's length (n,) -> log-chances, their lengths.

        Log-chances are (n, ceil(t / 2), symbols); what follows a length means nothing, and no
        value depends on how far its utterance is padded.
        """
        lengths = (lengths + 1) // 2
        x = frames.transpose(1, 2)
        for convolution in self.convolutions:
            x = functional.relu(convolution(x))
            present = torch.arange(x.shape[2], device=x.device) < lengths.unsqueeze(1)
            x = x * present.unsqueeze(1)
        x = self.dropout(x.transpose(1, 2))
        before, _ = self.forwards(x)
        after, _ = self.backwards(turned(x, lengths))
        states = torch.cat([before, turned(after, lengths)], -1)
        return functional.log_softmax(self.output(self.dropout(states)), -1), lengths

    @torch.no_grad()
    def log_chances(self, features: Sequence[Tensor], batch_size: int = 64) -> list[Tensor]:
        """Of each utterance (t, inputs) the log-chances (ceil(t / 2), symbols), on the CPU."""
        self.eval()
        device = self.output.weight.device
        found: list[Tensor] = [torch.empty(0)] * len(features)
        order = sorted(range(len(features)), key=lambda place: len(features[place]))
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            chances, lengths = self(*together([features[place] for place in places], device))
            for row, place in enumerate(places):
                found[place] = chances[row, : lengths[row]].cpu()
        return found

    def transcribed(self, features: Sequence[Tensor], beam: int | None = None) -> list[str]:
        """Texts of utterances (t, inputs): of the best path, or of a search with ``beam``."""
        found = self.log_chances(features)
        if beam is None:
            return [self.text(decode_best_path(chances)) for chances in found]
        return [self.text(prefix_search(chances, beam)[0][0]) for chances in found]

    def text(self, symbols: Sequence[int]) -> str:
        """Symbols as words between single blanks."""
        return " ".join("".join(self.alphabet.decode(symbols)).split())


def turned(x: Tensor, lengths: Tensor) -> Tensor:
    """Rows (n, t, width), the first ``lengths`` (n,) places of each in reverse order."""
    places = torch.arange(x.shape[1], device=x.device)
    mirrored = lengths.unsqueeze(1) - 1 - places
    mirrored = torch.where(mirrored >= 0, mirrored, places)
    return x.gather(1, mirrored.unsqueeze(-1).expand_as(x))


def together(features: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Utterances side by side (n, t, inputs), zeros after each, and their lengths (n,)."""
    lengths = torch.tensor([len(frames) for frames in features])
    batch = nn.utils.rnn.pad_sequence(list(features), batch_first=True)
    return batch.to(device), lengths.to(device)


def ctc_loss(log_chances: Tensor, lengths: Tensor, ids: Tensor, id_lengths: Tensor) -> Tensor:
    """Mean over the utterances of -log P(text) per character.

    Args:
        log_chances: (n, t, symbols), of which ``lengths`` (n,) are meant.
        ids: (n, characters), of which ``id_lengths`` (n,) are meant; no blanks (0) among them.
    """
    return functional.ctc_loss(log_chances.transpose(0, 1), ids, lengths, id_lengths)


def train_recogniser(
    features: Sequence[Tensor],
    transcripts: Sequence[str],
    settings: RecogniserSettings,
    schedule: Minibatches,
    seed: int,
    device: torch.device | None = None,
    progress: Progress | None = None,
    states: States | None = None,
) -> Recogniser:
    """A recogniser of utterances (t, inputs) and their transcripts.

    Raises:
        InputError: not one transcript for each utterance, or one with more characters than the
            network gives out frames.
    """
    if not features or len(features) != len(transcripts):
        raise InputError(
            f"{len(features)} utterances for {len(transcripts)} transcripts; one for each is needed"
        )
    device = device or torch.device("cpu")
    letters = sorted({letter for text in transcripts for letter in text})
    alphabet = Vocabulary((CTC_BLANK, *letters))
    characters = padded([alphabet.encode(text).tolist() for text in transcripts])
    for number, (frames, text) in enumerate(zip(features, transcripts, strict=True), start=1):
        # Between equal neighbours stands a blank.
        needed = len(text) + sum(a == b for a, b in pairwise(text))
        if needed > (len(frames) + 1) // 2:
            raise InputError(
                f"utterance {number}: {len(frames)} frames for {text!r}; allowed: from "
                f"{2 * needed - 1}"
            )
    torch.manual_seed(seed)
    model = Recogniser(features[0].shape[1], alphabet, settings).to(device)

    def loss(places: Tensor) -> Tensor:
        chances, lengths = model(*together([features[place] for place in places], device))
        return ctc_loss(chances, lengths, *characters.take(places).to(device))

    train_network(model, loss, len(features), schedule, seed, progress, states)
    return model

"""Language models of the experiments: a small transformer from its start, and GPT-2 fine-tuned.

Both map tokens (n, t) to logits (n, t, vocabulary) of the next ones and end in ``head``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Discriminator, Field, Tag
from torch import Tensor, nn

from common.data.registry import find, identity
from common.errors import InputError
from common.experiments.settings import Settings
from common.runs.run import Run
from papers.logra.tasks.networks import Transformer
from papers.logra.tasks.samples import Samples, compute_logits, losses, margins

#: Sequences whose logits are held at once: 1.6 GB of GPT-2's, at 512 tokens.
AT_ONCE = 16
#: What is read of the registered folder.
GPT2_FILES = ("config.json", "model.safetensors")


class TransformerShape(Settings):
    """Shape of a transformer."""

    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    hidden: int = Field(gt=0, description="of the MLP in a block")


class TransformerSettings(TransformerShape):
    """The small transformer."""

    kind: Literal["transformer"] = "transformer"

    def note(self, run: Run) -> None:
        """Nothing: it starts from random numbers."""

    def build(self, vocabulary: int, length: int, seed: int) -> nn.Module:
        """Freshly initialised with ``seed``."""
        torch.manual_seed(seed)
        return Transformer(vocabulary, length, self.width, self.depth, self.heads, self.hidden)


class Gpt2Settings(Settings):
    """GPT-2 with its published weights, from the registered folder."""

    kind: Literal["gpt2"]
    root: str | None = None

    def note(self, run: Run) -> None:
        """Note its files in the run. Raises InputError if one is absent or not the registered."""
        run.uses(identity("gpt2", GPT2_FILES, Path(self.root) if self.root else None))

    def build(self, vocabulary: int, length: int, seed: int) -> nn.Module:
        """With its weights, whatever the seed.

        Raises: InputError for tokens or lengths that it does not know.
        """
        return Gpt2(find("gpt2", Path(self.root) if self.root else None), vocabulary, length)


def _kind(given: Any) -> str:
    return str(given.get("kind", "transformer") if isinstance(given, dict) else given.kind)


LanguageModelSettings = Annotated[
    Annotated[TransformerSettings, Tag("transformer")] | Annotated[Gpt2Settings, Tag("gpt2")],
    Discriminator(_kind),
]


class Gpt2(nn.Module):
    """transformers' GPT-2 with a language model's head, whose blocks are ``network.*.h.*``.

    Dropout is off, as in the published fine-tuning script, which trains in evaluation mode.

    Args:
        folder: of ``config.json`` and ``model.safetensors``; nothing is downloaded.
        vocabulary, length: of the corpus.

    Raises:
        InputError: the corpus has another vocabulary or longer sequences.
    """

    def __init__(self, folder: Path, vocabulary: int, length: int) -> None:
        from transformers import GPT2Config, GPT2LMHeadModel

        super().__init__()
        config = GPT2Config.from_pretrained(
            folder, local_files_only=True, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0
        )
        if vocabulary != config.vocab_size or length > config.n_positions:
            raise InputError(
                f"network gpt2: a corpus of {vocabulary} kinds of tokens and sequences of {length};"
                f" allowed: {config.vocab_size}, its own, and at most {config.n_positions}"
            )
        self.network = GPT2LMHeadModel.from_pretrained(
            folder, config=config, local_files_only=True, use_safetensors=True
        )

    @property
    def head(self) -> nn.Module:
        """Linear layer that sees a token's representation."""
        head: nn.Module = self.network.lm_head
        return head

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, t) -> (n, t, vocabulary) logits of the next token."""
        logits: Tensor = self.network(tokens, use_cache=False).logits
        return logits


def measured(model: nn.Module, samples: Samples) -> tuple[Tensor, Tensor]:
    """Loss and margin of each sequence, (n,) each, sums over its tokens."""
    found: list[tuple[Tensor, Tensor]] = []
    for _, part in samples.batches(AT_ONCE):
        logits = compute_logits(model, part)
        found.append((losses(logits, part.y), margins(logits, part.y)))
    of_loss, of_margin = zip(*found, strict=True)
    return torch.cat(of_loss), torch.cat(of_margin)


def perplexity(model: nn.Module, samples: Samples) -> float:
    """Mean over sequences of exp(mean loss of its tokens)."""
    sums = torch.cat(
        [losses(compute_logits(model, part), part.y) for _, part in samples.batches(AT_ONCE)]
    )
    return float((sums / samples.y.shape[1]).exp().mean())

"""Language models by their shape alone: ours, GPT-2, GPT-NeoX (Pythia) and Llama, random weights.

What logging and scoring cost depends on shapes and number formats, not on the weights, so the
published models' shapes serve where their weights are not to be had. The MLPs' linear layers have
"mlp" in their names in all of them.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from papers.logra.tasks.language_models import TransformerShape
from papers.logra.tasks.networks import Transformer


class ArchitectureSettings(TransformerShape):
    """Which architecture, and its shape."""

    kind: Literal["transformer", "gpt2", "gpt_neox", "llama"] = Field(
        "transformer", description="ours, or one of transformers'"
    )
    key_value_heads: int | None = Field(
        None, gt=0, description="of Llama, shared by its heads; one for each head where absent"
    )


def language_model(
    settings: ArchitectureSettings,
    vocabulary: int,
    length: int,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """A model of this shape in evaluation mode; its weights are drawn with torch's global seed.

    It is made on ``device`` and in ``dtype``: 8 billion parameters as float32, or first in host
    memory, would not fit.

    Args:
        settings: the shape.
        vocabulary: number of tokens.
        length: longest sequence.
        device: also ``meta``, for shapes without memory.
        dtype: of the weights.

    Returns:
        Maps (n, t) tokens to (n, t, vocabulary) logits.
    """
    with torch.device(device):
        if settings.kind != "transformer":
            return LogitsOf(_of_transformers(settings, vocabulary, length, dtype)).eval()
        shape = (settings.width, settings.depth, settings.heads, settings.hidden)
        return Transformer(vocabulary, length, *shape).to(dtype).eval()


class LogitsOf(nn.Module):
    """A model of transformers that returns logits alone.

    Args:
        model: a causal language model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, t) -> (n, t, vocabulary)."""
        logits: Tensor = self.model(input_ids=tokens, use_cache=False).logits
        return logits


def _of_transformers(
    settings: ArchitectureSettings, vocabulary: int, length: int, dtype: torch.dtype
) -> nn.Module:
    from transformers import AutoModelForCausalLM

    configuration = _configuration(settings, vocabulary, length)
    model: nn.Module = AutoModelForCausalLM.from_config(configuration, dtype=dtype)  # type: ignore[no-untyped-call]
    return model


def _configuration(settings: ArchitectureSettings, vocabulary: int, length: int) -> Any:
    """transformers' own configuration; all that is not a size is as the class has it."""
    from transformers import GPT2Config, GPTNeoXConfig, LlamaConfig

    if settings.kind == "gpt2":
        return GPT2Config(
            vocab_size=vocabulary,
            n_positions=length,
            n_embd=settings.width,
            n_layer=settings.depth,
            n_head=settings.heads,
            n_inner=settings.hidden,
        )
    sizes: dict[str, Any] = {
        "vocab_size": vocabulary,
        "max_position_embeddings": length,
        "hidden_size": settings.width,
        "num_hidden_layers": settings.depth,
        "num_attention_heads": settings.heads,
        "intermediate_size": settings.hidden,
    }
    if settings.kind == "gpt_neox":
        return GPTNeoXConfig(**sizes)
    return LlamaConfig(**sizes, num_key_value_heads=settings.key_value_heads)

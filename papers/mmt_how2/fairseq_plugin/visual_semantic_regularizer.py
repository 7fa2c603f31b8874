"""Criterion: cross-entropy mixed with optimal transport between words, and words and picture."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.logging import metrics
from torch import Tensor

from common.errors import InputError

from .optimal_transport import cosine_distance, single_atom_loss, transport_loss, uniform_mass
from .options import VisualSemanticRegularizerConfig


@register_criterion("visual_semantic_regularizer", dataclass=VisualSemanticRegularizerConfig)
class VisualSemanticRegularizer(FairseqCriterion):  # type: ignore[misc]
    """``(1 - gamma) L_mle + gamma (W(pred, tgt) + W(pred, picture) + W(tgt, picture))``.

    Words are rows of the decoder's embedding table: of the target tokens, end of sentence
    included, and of the softmax annealed by tau, in float32 whatever the model computes in.
    fairseq divides a loss by the number of tokens, so a sentence's transport counts once for each
    of its tokens, as its likelihood does.
    """

    def __init__(
        self,
        task: Any,
        regularizer_gamma: float,
        regularizer_tau: float,
        regularizer_epsilon: float,
        regularizer_iterations: int,
        sentence_avg: bool,
    ) -> None:
        super().__init__(task)
        if not 0 <= regularizer_gamma <= 1:
            raise InputError(f"--regularizer-gamma {regularizer_gamma}; allowed: 0 to 1")
        for name, value in (("tau", regularizer_tau), ("epsilon", regularizer_epsilon)):
            if not value > 0:
                raise InputError(f"--regularizer-{name} {value}; allowed: above 0")
        if regularizer_iterations < 1:
            raise InputError(f"--regularizer-iterations {regularizer_iterations}; allowed: from 1")
        self.gamma, self.tau = regularizer_gamma, regularizer_tau
        self.epsilon, self.iterations = regularizer_epsilon, regularizer_iterations
        self.sentence_avg = sentence_avg

    def forward(
        self, model: Any, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Loss summed over the batch (or, unreduced, of each sentence), sample size, log."""
        logits, extra = model(**sample["net_input"])
        target = sample["target"]
        present = target.ne(self.padding_idx)
        log_probs = F.log_softmax(logits.float(), dim=-1)
        nll = F.nll_loss(
            log_probs.transpose(1, 2), target, ignore_index=self.padding_idx, reduction="none"
        ).sum(dim=1)
        transport = self.transport(model, logits, target, present, extra)
        loss = (1 - self.gamma) * nll + self.gamma * transport * present.sum(dim=1)
        size = target.size(0) if self.sentence_avg else sample["ntokens"]
        log = {
            "loss": loss.detach().sum(),
            "nll_loss": nll.detach().sum(),
            "transport": transport.detach().sum(),
            "ntokens": sample["ntokens"],
            "nsentences": target.size(0),
            "sample_size": size,
        }
        return (loss.sum() if reduce else loss), size, log

    def transport(
        self, model: Any, logits: Tensor, target: Tensor, present: Tensor, extra: dict[str, Any]
    ) -> Tensor:
        """The three transport terms of each sentence, (B,)."""
        picture = extra.get("visual") if isinstance(extra, dict) else None
        table = model.decoder.embed_tokens.weight.float()
        if picture is None:
            raise InputError(
                "--criterion visual_semantic_regularizer: the model encodes no picture; needed:"
                " --arch multimodal_lstm and --visual-dir"
            )
        if picture.size(1) != table.size(1):
            raise InputError(
                f"--visual-embed-dim {picture.size(1)}: the regulariser compares pictures with"
                f" word vectors; allowed: {table.size(1)}, as --decoder-embed-dim"
            )
        mass = uniform_mass(present)
        predicted = torch.softmax(logits.float() / self.tau, dim=-1) @ table
        words = table[target]
        return (
            transport_loss(
                cosine_distance(predicted, words), mass, mass, self.epsilon, self.iterations
            )
            + single_atom_loss(predicted, mass, picture.float())
            + single_atom_loss(words, mass, picture.float())
        )

    @staticmethod
    def reduce_metrics(logging_outputs: list[dict[str, Any]]) -> None:
        """Log means: loss and nll_loss a token in bits, transport a sentence."""

        def total(key: str) -> Any:
            return sum(log.get(key, 0) for log in logging_outputs)

        size, tokens = total("sample_size"), total("ntokens")
        metrics.log_scalar("loss", total("loss") / size / math.log(2), size, round=3)
        metrics.log_scalar("nll_loss", total("nll_loss") / tokens / math.log(2), tokens, round=3)
        sentences = total("nsentences")
        metrics.log_scalar("transport", total("transport") / sentences, sentences, round=4)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """True: they are sums."""
        return True

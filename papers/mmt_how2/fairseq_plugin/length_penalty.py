"""Beam search that ranks by the length penalty of Wu et al. 2016."""

from __future__ import annotations

from typing import Any

from fairseq.sequence_generator import SequenceGenerator


class WuLengthPenaltyGenerator(SequenceGenerator):  # type: ignore[misc]
    """Scores are log P / ((5 + |Y|) / 6)^alpha, where fairseq's are log P / |Y|^alpha.

    |Y| counts the end of sentence, as fairseq's does; alpha is ``--lenpen``.
    """

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **{**kw, "normalize_scores": False})

    def finalize_hypos(
        self, step: int, bbsz_idx: Any, eos_scores: Any, tokens: Any, scores: Any,
        finalized: list[list[dict[str, Any]]], *args: Any,
    ) -> Any:  # fmt: skip
        """Note finished hypotheses, all of ``step + 1`` tokens."""
        before = [len(hypotheses) for hypotheses in finalized]
        done = super().finalize_hypos(step, bbsz_idx, eos_scores, tokens, scores, finalized, *args)
        penalty = ((5 + step + 1) / 6) ** self.len_penalty
        for hypotheses, known in zip(finalized, before, strict=True):
            for hypothesis in hypotheses[known:]:
                hypothesis["score"] = hypothesis["score"] / penalty
        return done

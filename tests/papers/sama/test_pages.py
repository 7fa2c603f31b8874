"""The README's example and that of the derivations end as they say; claims are explained."""

from __future__ import annotations

import torch

from common import ROOT
from common.results.claims import judge_all, read_claims
from common.results.records import Results
from tests.papers.pages import run


def test_wrong_labels_lose_their_weight() -> None:
    """0.29 to 0.55 apart, and 0.93 to 0.95 of the test set right, with seeds 0 to 5."""
    names = run("papers/sama/README.md")
    learned = names["learned"]
    assert learned[500:].mean() > learned[:500].mean() + 0.2
    assert names["accuracy"] > 0.85


def test_the_rule_of_ones_own_is_the_derivative() -> None:
    names = run("docs/sama/adaptation.md")
    (found,) = names["adaptation"]([torch.ones(3)])
    torch.testing.assert_close(found, torch.full((3,), 1.3))


def test_a_claim_that_does_not_hold_on_real_data_is_explained() -> None:
    folder = ROOT / "papers" / "sama"
    judged = judge_all(read_claims(folder), Results.from_archive(folder, "paper"))
    assert sum(item.verdict == "holds" for item in judged) > 10
    assert [item.claim for item in judged if item.verdict != "holds" and not item.explanation] == []

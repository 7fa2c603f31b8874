"""What a recogniser of How2 gets wrong: the numbers of the public transcripts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from common.experiments.schema import Scale
from papers.mmt_how2.experiments.recognition_errors import classify_substitutions
from tests.common.data.real_data import skip_without
from tests.papers.mmt_how2.runs import record_of


def metrics_at(scale: Scale, folder: Path) -> dict[str, float]:
    return record_of("recognition", "test", "recogniser", folder, scale)[0].metrics


def test_the_public_transcripts_have_their_known_errors(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without("how2", data_root)
    monkeypatch.setenv("REPRO_DATA", str(data_root))
    found = metrics_at("paper", tmp_path)
    assert found["wer_pct"] == pytest.approx(18.41, abs=0.01)
    counts = [found[f"{kind}s_count"] for kind in ("substitution", "deletion", "insertion")]
    assert counts == [4684, 1307, 1540]
    assert (found["utterances_count"], found["words_count"]) == (2305, 40_901)
    shares = [found[f"{kind}_share_pct"] for kind in ("substitution", "deletion", "insertion")]
    assert shares == pytest.approx([62.2, 17.4, 20.4], abs=0.05)
    assert found["listed_function_pairs_count"] >= 8
    assert (found["distinct_pairs_count"], found["pairs_seen_once_count"]) == (3600, 3205)


def test_the_channel_of_smaller_scales_has_the_recogniser_s_rates(tmp_path: Path) -> None:
    found = metrics_at("laptop", tmp_path)
    for kind, rate in (("substitution", 11.45), ("deletion", 3.20), ("insertion", 3.77)):
        assert found[f"{kind}_pct"] == pytest.approx(rate, abs=0.6)


def test_kinds_of_errors_add_up(tmp_path: Path) -> None:
    found = metrics_at("smoke", tmp_path)
    kinds = ("substitution", "deletion", "insertion")
    assert sum(found[f"{kind}_share_pct"] for kind in kinds) == pytest.approx(100)
    assert sum(found[f"{kind}_pct"] for kind in kinds) == pytest.approx(found["wer_pct"])


def test_substitutions_are_counted_by_how_many_of_both_are_function_words() -> None:
    pairs = Counter({("the", "a"): 6, ("pipe", "to"): 3, ("pipe", "pike"): 1})
    assert classify_substitutions(pairs) == {
        "no_function_word_pct": 10,
        "one_function_word_pct": 30,
        "two_function_words_pct": 60,
    }

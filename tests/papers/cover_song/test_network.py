"""The networks, their matrices and the pairs that they learn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from common.errors import InputError
from papers.cover_song.network.architectures import (
    build_network,
    log_odds,
    published_network,
    resnext_network,
    script_network,
    trainable_parameters,
)
from papers.cover_song.network.evidence import evidence
from papers.cover_song.network.matrices import cross_similarity
from papers.cover_song.network.scoring import (
    all_log_odds,
    load_network,
    pair_log_odds,
    reranked,
    save_network,
)
from papers.cover_song.network.training_pairs import cover_pairs, non_cover_pairs, split_works
from papers.cover_song.similarity.chroma_set import chroma_set
from papers.cover_song.similarity.transposition import optimal_transposition
from papers.cover_song.tasks.collections import TRAINING_SIZES
from tests.papers.cover_song.songs import random_songs


def small_network() -> torch.nn.Module:
    """For songs of 32 s."""
    torch.manual_seed(0)
    return published_network(32, filters=4).eval()


def test_parameters_are_those_that_were_published_and_counted() -> None:
    assert trainable_parameters(published_network(180)) == 171_490
    assert trainable_parameters(script_network(180)) == 57_314
    network = resnext_network()
    assert trainable_parameters(network) == 23_011_842
    statistics = sum(
        each.numel() for name, each in network.named_buffers() if "num_batches" not in name
    )
    assert trainable_parameters(network) + statistics == 23_080_066


def test_layers_have_the_published_sizes() -> None:
    network = published_network(180)
    sides, value = [], torch.zeros(1, 1, 180, 180)
    for layer in network[:30]:
        value = layer(value)
        if isinstance(layer, torch.nn.BatchNorm2d):
            sides.append(tuple(value.shape[1:]))
            assert layer.eps == 1e-3
    assert sides == [(32, 90, 90), (16, 45, 45), (16, 22, 22), (16, 11, 11), (16, 5, 5)]


def test_a_matrix_is_the_standardised_similarity() -> None:
    songs = random_songs(3, 32)
    x, y = songs.frames[0].astype(np.float64), songs.frames[2].astype(np.float64)
    y = np.roll(y, optimal_transposition(x, y), axis=1)
    distances = np.linalg.norm(x[:, None] - y[None], axis=2)
    similarity = (distances.max() - distances) / distances.max()
    expected = (similarity - similarity.mean()) / similarity.std()
    found = cross_similarity(songs, np.array([[0, 2]]))
    assert found.shape == (1, 1, 32, 32)
    np.testing.assert_allclose(found[0, 0], expected, atol=2e-5)


def test_both_orders_of_a_pair_are_one_matrix() -> None:
    songs = random_songs(3, 32)
    there, back = cross_similarity(songs, np.array([[0, 2], [2, 0]]))
    torch.testing.assert_close(there, back, rtol=0, atol=0)


def test_no_key_changes_a_matrix() -> None:
    raw = np.random.default_rng(0).random((2, 32, 12))
    moved = raw.copy()
    moved[1] = np.roll(raw[1], 4, axis=1)
    pair = np.array([[0, 1]])
    torch.testing.assert_close(
        cross_similarity(chroma_set(raw), pair), cross_similarity(chroma_set(moved), pair)
    )


def test_silence_gives_zeros_and_no_nan() -> None:
    songs = chroma_set(np.zeros((2, 32, 12)))
    assert (cross_similarity(songs, np.array([[0, 1]])) == 0).all()


def test_log_odds_tell_apart_what_probabilities_do_not() -> None:
    logits = torch.tensor([[-20.0, 20.0], [-21.0, 21.0]])
    assert (torch.softmax(logits, 1)[:, 1] == 1).all()
    assert log_odds(logits).tolist() == [40.0, 42.0]


def test_scores_of_all_pairs_are_those_of_each() -> None:
    songs, network = random_songs(6, 32), small_network()
    scores = all_log_odds(network, songs)
    assert np.isnan(np.diag(scores)).all()
    alone = pair_log_odds(network, songs, np.array([[4, 1]]))
    assert scores[1, 4] == scores[4, 1] == pytest.approx(alone[0], abs=1e-5)


def test_the_network_sorts_the_candidates_and_no_others() -> None:
    scores = np.random.default_rng(1).random((8, 8))
    wanted = np.random.default_rng(2).normal(size=(8, 8))
    wanted += wanted.T
    asked: list[np.ndarray] = []

    def odds(pairs: np.ndarray) -> np.ndarray:
        asked.append(pairs)
        return wanted[pairs[:, 0], pairs[:, 1]]

    found = reranked(scores, 3, odds)
    assert (asked[0][:, 0] < asked[0][:, 1]).all()
    assert len(np.unique(asked[0], axis=0)) == len(asked[0])
    for query in range(8):
        others = np.delete(np.arange(8), query)
        cheap = others[np.argsort(-scores[query][others])]
        expected = [*sorted(cheap[:3], key=lambda j: -wanted[query, j]), *cheap[3:]]
        assert others[np.argsort(-found[query][others])].tolist() == expected


def test_evidence_is_the_derivative_times_the_matrix() -> None:
    network = small_network().double()
    matrix = torch.randn(1, 1, 32, 32, dtype=torch.float64)
    found = evidence(network, matrix)
    step = torch.zeros_like(matrix)
    step[0, 0, 7, 9] = 1e-6
    with torch.no_grad():
        slope = (log_odds(network(matrix + step)) - log_odds(network(matrix - step))) / 2e-6
    assert found[0, 7, 9].item() == pytest.approx(
        (slope * matrix[0, 0, 7, 9]).item(), rel=1e-4, abs=1e-9
    )


def test_a_network_is_read_as_it_was_written(tmp_path: Path) -> None:
    network, path = small_network(), tmp_path / "network.safetensors"
    save_network(network, path, architecture="published", frames=32, filters=4)
    again, frames = load_network(path)
    assert frames == 32
    matrix = torch.randn(3, 1, 32, 32)
    torch.testing.assert_close(again(matrix), network(matrix), rtol=0, atol=1e-6)


def test_files_that_hold_no_network_are_refused(tmp_path: Path) -> None:
    text, bare, listed, other = (tmp_path / name for name in ("text", "bare", "listed", "other"))
    text.write_text("no weights")
    save_file({"a": torch.zeros(1)}, str(bare))
    save_file({"a": torch.zeros(1)}, str(listed), metadata={"network": "[1]"})
    save_network(small_network(), other, architecture="published", frames=64, filters=8)
    for path, said in (
        (text, "no weights"),
        (bare, "metadata"),
        (listed, "metadata"),
        (other, "do not fit"),
    ):
        with pytest.raises(InputError, match=said):
            load_network(path)


def test_sizes_that_no_network_has_are_refused() -> None:
    with pytest.raises(InputError, match="frames 20"):
        build_network("published", 20)
    with pytest.raises(InputError, match="frames 64"):
        build_network("script", 64)
    with pytest.raises(InputError, match="filters 8"):
        build_network("script", 180, 8)


def test_the_papers_training_list_has_its_numbers() -> None:
    works = np.repeat(
        np.arange(254), [size for size, count in TRAINING_SIZES.items() for _ in range(count)]
    )
    assert len(works) == 1_175
    assert len(cover_pairs(works)) == 2_435


def test_pairs_are_of_one_work_or_of_two() -> None:
    works = np.random.default_rng(0).integers(0, 8, 40)
    covers = cover_pairs(works)
    others = non_cover_pairs(works, 100, np.random.default_rng(1))
    assert (works[covers[:, 0]] == works[covers[:, 1]]).all()
    assert (works[others[:, 0]] != works[others[:, 1]]).all()
    for pairs in (covers, others):
        assert (pairs[:, 0] < pairs[:, 1]).all()
        assert len(np.unique(pairs, axis=0)) == len(pairs)
    everything = 40 * 39 // 2 - len(covers)
    assert len(non_cover_pairs(works, everything, np.random.default_rng(2))) == everything
    with pytest.raises(InputError, match=f"the songs have {everything}"):
        non_cover_pairs(works, everything + 1, np.random.default_rng(2))


def test_no_work_is_on_both_sides_of_a_split() -> None:
    works = np.repeat(np.arange(30), 5)
    train, validation = split_works(works, 0.2, np.random.default_rng(0))
    assert not set(works[train]) & set(works[validation])
    assert len(train) + len(validation) == len(works)
    assert len(cover_pairs(works[validation])) == 60

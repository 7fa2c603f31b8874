"""CTC decoding against all alignments, which are few for tiny inputs."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from common.errors import InputError
from papers.mmt_how2.correction.ctc_decoding import Prefix, decode_best_path, prefix_search

FRAMES, SYMBOLS = 4, 3


def chances(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(FRAMES, SYMBOLS, generator=generator).mul(2).double().log_softmax(-1)


def text_of(path: Prefix) -> Prefix:
    """What is left of a path without repeats and blanks."""
    return tuple(
        symbol
        for place, symbol in enumerate(path)
        if symbol and (place == 0 or path[place - 1] != symbol)
    )


def all_paths(log_chances: Tensor) -> dict[Prefix, float]:
    """Probability of each of the 81 paths."""
    return {
        path: math.exp(sum(float(log_chances[t, symbol]) for t, symbol in enumerate(path)))
        for path in itertools.product(range(SYMBOLS), repeat=FRAMES)
    }


def by_enumeration(log_chances: Tensor) -> dict[Prefix, float]:
    """Probability of each text: the sum over its paths."""
    totals: dict[Prefix, float] = defaultdict(float)
    for path, chance in all_paths(log_chances).items():
        totals[text_of(path)] += chance
    return totals


@settings(max_examples=20)
@given(st.integers(0, 200))
def test_a_wide_search_is_the_sum_over_all_alignments(seed: int) -> None:
    frames = chances(seed)
    expected = by_enumeration(frames)
    found = prefix_search(frames, beam=1000, least=-math.inf)
    assert {text: math.exp(value) for text, value in found} == pytest.approx(expected)
    assert [value for _, value in found] == sorted((value for _, value in found), reverse=True)


@given(st.integers(0, 200), st.integers(1, 4))
def test_a_narrow_search_never_overrates_a_text(seed: int, beam: int) -> None:
    frames = chances(seed)
    expected = by_enumeration(frames)
    found = prefix_search(frames, beam)
    assert len(found) <= beam
    assert all(math.exp(value) <= expected[text] + 1e-9 for text, value in found)


@given(st.integers(0, 200))
def test_the_greedy_text_is_that_of_the_best_path(seed: int) -> None:
    frames = chances(seed)
    paths = all_paths(frames)
    assert tuple(decode_best_path(frames)) == text_of(max(paths, key=lambda path: paths[path]))


def test_the_search_agrees_with_the_loss_that_trains() -> None:
    torch.manual_seed(0)
    frames = torch.randn(6, 4).double().log_softmax(-1)
    for text, value in prefix_search(frames, beam=10_000, least=-math.inf)[:50]:
        if text:
            loss = functional.ctc_loss(
                frames.unsqueeze(1), torch.tensor([text]), (6,), (len(text),), reduction="sum"
            )
            assert value == pytest.approx(-float(loss))


def test_the_best_text_need_not_be_that_of_the_best_path() -> None:
    # Blank twice has 0.36, but "a" has a-blank, blank-a and a-a: 0.64.
    frames = torch.tensor([[0.6, 0.4], [0.6, 0.4]]).log()
    assert decode_best_path(frames) == []
    ((text, value), *_) = prefix_search(frames, beam=2)
    assert text == (1,)
    assert math.exp(value) == pytest.approx(0.64)


def test_a_symbol_comes_twice_only_around_a_blank() -> None:
    certain = torch.full((4, 2), -1e9).scatter(1, torch.tensor([[1], [1], [0], [1]]), 0.0)
    assert decode_best_path(certain) == [1, 1]
    assert prefix_search(certain, beam=3)[0][0] == (1, 1)
    with pytest.raises(InputError, match="beam 0"):
        prefix_search(certain, beam=0)

"""Ids tell samples apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from papers.logra.session.data_ids import DataIDGenerator, normalise_ids


def test_defect_9_equal_inputs_with_different_targets_have_different_ids() -> None:
    """Upstream's hash knew the inputs alone."""
    inputs, targets = torch.ones(3, 2), torch.tensor([0, 1, 0])
    first, second, third = DataIDGenerator()(inputs, targets)
    assert first == third != second
    assert len(set(DataIDGenerator()(inputs))) == 1


@given(st.integers(1, 5), st.integers(1, 5))
def test_hashes_do_not_depend_on_batches_and_indices_go_on(first: int, second: int) -> None:
    data = torch.arange(2.0 * (first + second)).view(-1, 2)
    parts = data[:first], data[first:]
    hashed, numbered = DataIDGenerator("hash"), DataIDGenerator("index")
    assert hashed(parts[0]) + hashed(parts[1]) == hashed(data)
    found = numbered(parts[0]) + numbered(parts[1])
    assert found == [str(number) for number in range(first + second)]


def test_samples_that_differ_in_type_shape_or_place_have_different_ids() -> None:
    zeros = torch.zeros(1, 4)
    samples = [zeros, zeros.double(), zeros.view(1, 2, 2), zeros.int(), torch.ones(1, 4)]
    assert len({DataIDGenerator()(sample)[0] for sample in samples}) == len(samples)
    one, two = ["a"], ["b"]
    assert DataIDGenerator()(one, two) != DataIDGenerator()(two, one)
    bfloat = torch.randn(2, 3).bfloat16()
    assert len(set(DataIDGenerator()(bfloat))) == 2
    assert DataIDGenerator()(np.ones((2, 1))) == DataIDGenerator()(torch.ones(2, 1).double())


def test_ids_are_strings() -> None:
    assert normalise_ids(["a", 3, 2.5]) == ["a", "3", "2.5"]
    assert (
        normalise_ids(torch.tensor([4, 5]))
        == normalise_ids(range(4, 6))
        == normalise_ids(np.array([4, 5]))
    )
    tokens = torch.tensor([[1, 2], [1, 2], [2, 1]])
    first, second, third = normalise_ids(tokens)
    assert first == second != third
    with pytest.raises(InputError, match="data_id 'abc'; allowed: a list"):
        normalise_ids("abc")


def test_unusable_input_says_what_is_allowed() -> None:
    with pytest.raises(InputError, match="mode 'name'; allowed: hash, index"):
        DataIDGenerator("name")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"batches of \[2, 1\] samples"):
        DataIDGenerator()(torch.ones(2, 1), torch.ones(1))

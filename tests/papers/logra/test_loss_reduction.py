"""What a loss is over is found from gradients, or it is asked for."""

from __future__ import annotations

import logging
from collections import UserDict, namedtuple
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from common.errors import InputError
from papers.logra.checks.sample_batches import rows_in, take_samples
from papers.logra.trainers.loss_reduction import Example, LossReduction

Loss = Callable[[Tensor, Tensor], Tensor]
SIZES = [3, 1, 4, 1, 5]


def rows(n: int) -> Tensor:
    return torch.randn(n, 7, generator=torch.Generator().manual_seed(0)).double()


def check(reduction: LossReduction, share: Callable[[Tensor], Tensor], n: int = 5) -> None:
    """Of a loss whose sample i has ``share(sizes)[i]`` of its gradient; its terms are sizes."""
    every, sizes = rows(n), torch.tensor(SIZES[:n])
    of_call: dict[Callable[[], None], Tensor] = {}

    def example(places: Sequence[int]) -> Example:
        own, held = sizes[list(places)], every[list(places)]

        def backward() -> None: ...

        of_call[backward] = share(own)[:, None] * held
        return Example(
            ["id"] * len(places),
            None,
            int(own.sum()),
            backward,
            lambda inside: example([places[k] for k in inside]),
        )

    reduction.check(example(range(n)), lambda backward: of_call[backward])


def new(declared: Any = "auto") -> LossReduction:
    return LossReduction(declared, "labels", "to count labels")


def as_sum(sizes: Tensor) -> Tensor:
    return sizes.double()


def as_mean(sizes: Tensor) -> Tensor:
    return sizes / sizes.sum()


def as_mean_of_samples(sizes: Tensor) -> Tensor:
    return torch.full((len(sizes),), 1 / len(sizes), dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_sums_and_means_are_told_apart(n: int) -> None:
    # A sum has the gradient alone and beside others; its size does not matter.
    for share, kind, scale in ((as_sum, "sum", 1.0), (as_mean, "mean", 1 / 6)):
        reduction = new()
        check(reduction, share, n)
        assert reduction.kind == kind
        assert reduction.scale(6) == scale


@pytest.mark.parametrize("declared", ["auto", "mean", "sum"])
def test_what_is_neither_is_refused(declared: str) -> None:
    with pytest.raises(InputError, match=r"has 0\.2 of the gradient.*allowed: to count labels$"):
        check(new(declared), as_mean_of_samples)


def test_what_was_said_wrongly_is_refused_and_what_is_right_is_named() -> None:
    with pytest.raises(InputError, match=r"'sum'.*allowed: .*, loss_reduction 'mean'$"):
        check(new("sum"), as_mean)
    with pytest.raises(InputError, match=r"'mean'.*allowed: .*, loss_reduction 'sum'$"):
        check(new("mean"), as_sum)


def test_later_batches_are_checked_too() -> None:
    reduction = new()
    check(reduction, as_mean)
    with pytest.raises(InputError, match=r"'mean'"):
        check(reduction, as_sum)
    check(reduction, as_sum)  # the third one is not, the fourth would be
    with pytest.raises(InputError):
        check(reduction, as_sum)
    reduction.begin()
    with pytest.raises(InputError):
        check(reduction, as_sum)


def test_chance_and_dependence_are_asked_about(caplog: pytest.LogCaptureFixture) -> None:
    def lone(places: Sequence[int]) -> Example:
        return Example(["id"] * len(places), None, len(places), lambda: None, lone)

    def drawn(_backward: Callable[[], None]) -> Tensor:
        return torch.randn(5, 7)

    torch.manual_seed(0)
    with pytest.raises(InputError, match=r"'auto': a sample's gradient alone and beside others"):
        new().check(lone(range(5)), drawn)
    with pytest.raises(InputError, match=r"'auto': the batch cannot be cut into samples"):
        new().check(Example(["id"] * 5, None, 5, lambda: None), drawn)
    said = new("mean")
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            said.check(lone(range(5)), drawn)
    assert caplog.text.count("'mean' is taken on trust") == 1
    assert said.scale(4) == 0.25


def test_without_gradients_nothing_is_concluded() -> None:
    reduction = new()
    check(reduction, lambda sizes: torch.zeros(len(sizes)).double())
    assert reduction.kind == "auto"


def test_a_batch_without_gradients_leaves_the_next_one_to_be_looked_at() -> None:
    reduction = new()
    for _ in range(3):
        check(reduction, lambda sizes: torch.zeros(len(sizes)).double())
    check(reduction, as_sum)
    assert reduction.kind == "sum"


def test_samples_that_have_a_gradient_are_looked_at() -> None:
    """Of forty only the last one has any, which no fixed choice of eight would see."""
    every = torch.zeros(40, 7).double()
    every[-1] = rows(1)[0]
    of_call: dict[Callable[[], None], Tensor] = {}

    def example(places: Sequence[int]) -> Example:
        def backward() -> None: ...

        of_call[backward] = every[list(places)]
        ids = ["id"] * len(places)
        inside = lambda chosen: example([places[k] for k in chosen])  # noqa: E731
        return Example(ids, None, len(places), backward, inside)

    reduction = new()
    reduction.check(example(range(40)), lambda backward: of_call[backward])
    assert reduction.kind == "sum"


def test_batches_are_cut_by_samples() -> None:
    x, y = torch.arange(12).view(3, 4), torch.tensor([5, 6, 7])
    pair = namedtuple("Pair", "x y")(x, y)
    assert rows_in(pair) == rows_in([[x], y]) == rows_in(UserDict(a="text", x=x)) == 3
    for batch in (pair, [x, y], (x, y), {"x": x, "y": y}, UserDict(x=x, y=y)):
        found = take_samples(batch, [2, 0], 3)
        parts = list(found.values() if hasattr(found, "values") else found)
        assert torch.equal(parts[0], x[[2, 0]])
        assert torch.equal(parts[1], y[[2, 0]])
    nested = take_samples({"x": (x,), "names": ["a", "b", "c"], "all": torch.tensor(1)}, [1], 3)
    assert nested["names"] == ["b"]
    assert torch.equal(nested["x"][0], x[[1]])
    assert nested["all"] == 1
    assert take_samples({"n": 3}, [0], 3) is None
    with pytest.raises(InputError, match="a batch of type object; allowed: a tensor"):
        rows_in(object())

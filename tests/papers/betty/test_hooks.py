"""Facts of hooks on an upper problem's parameters: they see hypergradients, with their sign."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from papers.betty import Config, ImplicitProblem, IterativeProblem
from tests.papers.betty.programs import engine, hypergradient_of, normal, problem

BILEVEL: dict[str, Any] = {"u2l": {"upper": ["lower"]}, "l2u": {"lower": ["upper"]}}
DOUBLE = {"dtype": torch.float64}


def hooked(kind: str, config: Config, cost: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """(hypergradient, sum of what a hook on the upper's parameter saw); no direct gradient."""
    generator = torch.Generator().manual_seed(3)
    start, u = (normal(4, generator=generator) for _ in range(2))
    base = IterativeProblem if kind == "itd" else ImplicitProblem
    sgd = lambda params: torch.optim.SGD(params, lr=0.1)  # noqa: E731
    lower = problem("lower", start, cost, ("upper",), config, sgd, base)
    upper = problem("upper", u, lambda u, w: (w - 3).square().sum() / 2, ("lower",))
    engine([lower, upper], **BILEVEL)
    if kind == "reinforce":
        lower.log_prob = lambda: upper.module.w.log_softmax(0)[1]  # type: ignore[method-assign]
        upper.baseline = 100.0  # so that the advantage is negative
    seen: list[Tensor] = []
    upper.module.w.register_hook(lambda grad: seen.append(grad.clone()))
    return hypergradient_of(upper), torch.stack(seen).sum(0)


@pytest.mark.parametrize("kind", ["cg", "neumann", "itd", "reinforce"])
def test_hooks_on_an_upper_parameter_see_the_hypergradient(kind: Any) -> None:
    found, seen = hooked(kind, Config(kind), lambda w, u: (w * u).square().sum() / 2 - w @ u)
    assert found.abs().min() > 1e-3
    assert_close(seen, found, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["darts", "sama"])
def test_hooks_see_a_finite_difference_with_its_sign(kind: Any) -> None:
    """Two passes, whose sum is the hypergradient times the distance of the two points."""
    found, seen = hooked(kind, Config(kind, sama_adam_alpha=0.1), lambda w, u: -(w**3 * u).sum())
    cosine = nn.functional.cosine_similarity(seen, found, dim=0)
    assert float(cosine) > 1 - 1e-9


@pytest.mark.parametrize("kind", ["cg", "neumann", "itd", "darts"])
def test_a_hook_that_masks_a_parameter_masks_its_hypergradient(kind: Any) -> None:
    generator = torch.Generator().manual_seed(4)
    start, u = (normal(4, generator=generator) for _ in range(2))
    base = IterativeProblem if kind == "itd" else ImplicitProblem
    sgd = lambda params: torch.optim.SGD(params, lr=0.1)  # noqa: E731
    cost = lambda w, u: (w - u).square().sum() / 2  # noqa: E731
    lower = problem("lower", start, cost, ("upper",), Config(kind), sgd, base)
    upper = problem("upper", u, lambda u, w: (w - 3).square().sum() / 2, ("lower",))
    engine([lower, upper], **BILEVEL)
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0], **DOUBLE)
    upper.module.w.register_hook(lambda grad: grad * mask)
    found = hypergradient_of(upper)
    assert not found[mask == 0].any()
    assert found[mask == 1].all()

"""Facts of D = du/dg: the derivative of each optimiser's own step, clipping and groups included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import SGD, Adafactor, Adam, AdamW, Muon, NAdam, RAdam, Rprop
from torch.testing import assert_close

from common.errors import InputError
from papers.sama import Adaptation, Step, register, supported
from tests.papers.betty.optimizers import KINDS, SHAPES, Stepped

EACH = pytest.mark.parametrize("name", KINDS)


@EACH
@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("maximize", [False, True])
def test_the_rule_is_the_derivative_of_the_step_by_autograd(
    name: str, number: int, maximize: bool
) -> None:
    stepped = Stepped(KINDS[name], number, maximize=maximize)
    # torch has no differentiable step of Adafactor, and detaches a new momentum buffer.
    detached = name in ("momentum", "nesterov") and number == 1
    no_graph = detached or KINDS[name][0] is Adafactor
    wanted = stepped.by_differences() if no_graph else stepped.by_autograd()
    assert_close(stepped.product(), wanted, rtol=1e-6, atol=1e-9)


@EACH
@pytest.mark.parametrize("number", [2, 5])
def test_the_rule_is_the_central_difference_of_the_real_step(name: str, number: int) -> None:
    stepped = Stepped(KINDS[name], number)
    wanted = stepped.by_differences()
    assert_close(stepped.product(), wanted, rtol=1e-6, atol=1e-9)


def test_both_phases_of_radam_and_both_branches_of_amsgrad_are_seen() -> None:
    assert _lengths(0.999, 5) <= 5 < _lengths(0.95, 7)
    stepped = Stepped(KINDS["amsgrad"], 5)
    stepped.product()
    states = [stepped.optimizer.state[p] for p in stepped.params]
    newest = torch.cat([(s["max_exp_avg_sq"] == s["exp_avg_sq"]).flatten() for s in states])
    assert newest.any()
    assert not newest.all()
    stepped = Stepped(KINDS["radam, second phase"], 7)
    wanted = stepped.by_autograd()
    assert_close(stepped.product(), wanted, rtol=1e-6, atol=1e-9)


def _lengths(beta2: float, number: int) -> float:
    """Length of the simple moving average that RAdam looks at."""
    return 2 / (1 - beta2) - 1 - 2 * number * beta2**number / (1 - beta2**number)


CLIPS: dict[str, Callable[[Any, Sequence[Tensor]], Any]] = {
    "norm": lambda a, params: a.clip_grad_norm_(1.5) if a else clip_grad_norm_(params, 1.5),
    "large norm": lambda a, params: a.clip_grad_norm_(99.0) if a else clip_grad_norm_(params, 99.0),
    "value": lambda a, params: a.clip_grad_value_(0.7) if a else clip_grad_value_(params, 0.7),
}


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("name", ["sgd", "adam with L2", "rmsprop, centred", "adafactor"])
def test_clipping_is_a_link_of_the_chain(name: str, clip: str) -> None:
    stepped = Stepped(KINDS[name], 3, CLIPS[clip])
    wanted = stepped.by_differences()
    assert_close(stepped.product(), wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("bound", [0.1, 0.3, 0.7])
def test_a_bound_is_rounded_as_the_gradients_are(dtype: torch.dtype, bound: float) -> None:
    param = torch.zeros(3, dtype=dtype, requires_grad=True)
    optimizer = SGD([param], lr=1.0)
    adaptation = Adaptation(optimizer)
    param.grad = torch.tensor([5.0, 0.01, -2.0], dtype=dtype)
    adaptation.clip_grad_value_(bound)
    optimizer.step()
    (found,) = adaptation([torch.ones(3)])
    assert found.tolist() == [0, 1, 0]


def test_clipping_takes_away_what_lies_along_the_gradient() -> None:
    """With SGD the update keeps its length: ``v'g = 0`` up to torch's 1e-6 in the divisor."""
    stepped = Stepped((SGD, {}), 1, CLIPS["norm"])
    # One rate for both groups: SGD then is a factor.
    for group in stepped.optimizer.param_groups:
        group["lr"] = 1.0
    found = stepped.product()
    along = sum(float((v * g).sum()) for v, g in zip(found, stepped.grads, strict=True))
    assert abs(along) < 1e-5
    assert max(float(v.abs().max()) for v in found) > 0.1


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {"foreach": True}) for name in KINDS if "adafactor" not in name),
        *((name, {"fused": True}) for name in ("momentum", "adam with L2", "amsgrad", "adagrad")),
    ],
)
def test_foreach_and_fused_kernels_have_the_same_derivative(
    name: str, options: dict[str, bool]
) -> None:
    wanted = Stepped(KINDS[name], 3, foreach=False).product()
    assert_close(Stepped(KINDS[name], 3, **options).product(), wanted, rtol=1e-9, atol=1e-12)


@EACH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_is_computed_in_single_precision(name: str, dtype: torch.dtype) -> None:
    """Up to the rounding of states, of whose errors a derivative makes several times as much."""
    found = Stepped(KINDS[name], 4, dtype=dtype).product()
    wanted = Stepped(KINDS[name], 4).product()
    assert {part.dtype for part in found} == {torch.float32}
    error = torch.cat([(a - b).flatten() for a, b in zip(found, wanted, strict=True)]).norm()
    length = torch.cat([part.flatten() for part in wanted]).norm()
    assert error / length < 30 * torch.finfo(dtype).eps


def test_hyper_parameters_are_those_of_the_step() -> None:
    """A schedule that has stepped since does not change D."""
    stepped, other = Stepped(KINDS["adam"], 3), Stepped(KINDS["adam"], 3)
    wanted = stepped.product()
    other._step(other.params, other.grads, other.optimizer)
    for group in other.optimizer.param_groups:
        group["lr"] *= 0.1
    assert_close(other.adaptation(other.vector), wanted, rtol=0, atol=0)


def test_a_learning_rate_may_be_a_tensor() -> None:
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    rate = torch.tensor(0.1, dtype=torch.float64)
    optimizer = SGD([weight], lr=rate)
    adaptation = Adaptation(optimizer)
    weight.sum().backward()
    optimizer.step()
    rate.mul_(0.5)
    assert_close(
        adaptation([torch.ones(3, dtype=torch.float64)])[0], torch.full((3,), 0.1).double()
    )


def test_parameters_that_joined_later_have_their_own_step_count() -> None:
    a, b = (torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    both = Adam([a, b], lr=0.1)
    alone = {id(p): Adam([p], lr=0.1) for p in (a, b)}
    adaptation = Adaptation(both)
    singles = {key: Adaptation(each) for key, each in alone.items()}
    generator = torch.Generator().manual_seed(0)
    for present in ((a,), (a, b), (a, b)):
        grads = [torch.randn(2, generator=generator, dtype=torch.float64) for _ in present]
        for optimizers in ([both], [alone[id(p)] for p in present]):
            both.zero_grad()
            for param, grad in zip(present, grads, strict=True):
                param.grad = grad
            for optimizer in optimizers:
                optimizer.step()
    ones = [torch.ones(2, dtype=torch.float64)]
    wanted = [singles[id(p)](ones)[0] for p in (a, b)]
    assert_close(adaptation(ones * 2), wanted, rtol=1e-12, atol=0)


def test_weights_without_a_gradient_have_none() -> None:
    """Neither in the step, nor ever: a row of zeros must not make up all of the norm."""
    a, b = (torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = Adam([a, b], lr=0.1)
    adaptation = Adaptation(optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        (a[0] ** 2).backward()
        optimizer.step()
    used, unused = adaptation([torch.ones(2, dtype=torch.float64)] * 2)
    assert used[0] != 0
    assert used[1] == 0
    assert torch.equal(unused, torch.zeros_like(unused))


def test_some_weights_alone_have_the_same_entries() -> None:
    """The last-layer variant keeps the gradients of the last layer only."""
    stepped = Stepped(KINDS["adam with L2"], 3)
    last = Adaptation(stepped.optimizer, stepped.params[:1])
    wanted = stepped.product()
    assert_close(last(stepped.vector[:1]), wanted[:1], rtol=0, atol=0)


def test_a_step_that_loss_scaling_skips_is_none() -> None:
    stepped = Stepped(KINDS["adam"], 3, fused=True)
    wanted = stepped.product()
    for param in stepped.params:
        param.grad = torch.full_like(param, torch.inf)
    stepped.optimizer.grad_scale = torch.tensor(2.0)  # type: ignore[attr-defined]
    stepped.optimizer.found_inf = torch.tensor(1.0)  # type: ignore[attr-defined]
    stepped.optimizer.step()
    assert_close(stepped.adaptation(stepped.vector), wanted, rtol=0, atol=0)


def test_the_clip_of_a_step_that_was_not_taken_is_forgotten() -> None:
    plain, other = Stepped(KINDS["sgd"], 3), Stepped(KINDS["sgd"], 3)
    for param in other.params:
        param.grad = torch.full_like(param, 9.0)
    other.adaptation.clip_grad_norm_(0.1)
    assert_close(other.product(), plain.product(), rtol=0, atol=0)


def test_what_changes_gradients_between_clip_and_step_is_refused() -> None:
    stepped = Stepped(KINDS["sgd"], 3)
    for param in stepped.params:
        param.grad = torch.ones_like(param)
    stepped.adaptation.clip_grad_norm_(0.5)
    for again in (stepped.adaptation.clip_grad_norm_, stepped.adaptation.clip_grad_value_):
        with pytest.raises(InputError, match="clipped twice"):
            again(0.1)
    stepped.params[0].grad = torch.ones_like(stepped.params[0])
    with pytest.raises(InputError, match="replaced between clipping and the step"):
        stepped.optimizer.step()


def test_parameters_that_join_are_clipped_too_or_refused() -> None:
    first, late = (torch.zeros(2, requires_grad=True) for _ in range(2))
    for weights in (None, [first]):
        optimizer = SGD([first], lr=1.0)
        adaptation = Adaptation(optimizer, weights)
        optimizer.add_param_group({"params": [late]})
        first.grad, late.grad = torch.ones(2), torch.ones(2)
        assert float(adaptation.clip_grad_norm_(1.0)) == pytest.approx(2.0)
        assert float(late.grad[0]) == pytest.approx(0.5)
        if weights is None:
            with pytest.raises(InputError, match="has joined or been unfrozen"):
                optimizer.step()
        else:
            optimizer.step()
            assert adaptation([torch.ones(2)])[0].abs().max() < 1


def test_the_loss_scale_is_no_part_of_the_gradient() -> None:
    plain, scaled = Stepped(KINDS["adam"], 3, fused=True), Stepped(KINDS["adam"], 3, fused=True)
    scaled.optimizer.grad_scale = torch.tensor(8.0)  # type: ignore[attr-defined]
    scaled.optimizer.found_inf = torch.tensor(0.0)  # type: ignore[attr-defined]
    scaled.grads = [grad * 8 for grad in scaled.grads]
    assert_close(scaled.product(), plain.product(), rtol=1e-6, atol=1e-12)


class Lion(torch.optim.Optimizer):
    """Without a rule."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move by the sign."""


class Renamed(Adam):
    """Adam's own step."""


class Changed(Adam):
    """Another step than Adam's."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move nowhere."""


def weights() -> list[Tensor]:
    return [torch.ones(shape, requires_grad=True) for shape in SHAPES]


@pytest.mark.parametrize("make", [Lion, Changed, Rprop, lambda p: Muon([p[0]])])
def test_an_optimiser_without_a_rule_is_refused_with_those_that_have_one(make: Any) -> None:
    with pytest.raises(InputError, match="no rule") as error:
        Adaptation(make(weights()))
    assert "\n" not in str(error.value)
    assert all(name in str(error.value) for name in ("Adam", "RMSprop", "Adafactor"))


def test_a_subclass_that_does_not_change_the_step_has_its_parents_rule() -> None:
    assert Adaptation(Renamed(weights())).rule is Adaptation(Adam(weights())).rule


def test_nadam_and_radam_are_not_taken_for_adam() -> None:
    rules = {Adaptation(cls(weights())).rule.function for cls in (Adam, AdamW, NAdam, RAdam)}
    assert len(rules) == 3


def test_a_rule_can_be_registered() -> None:
    class Doubled(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for param in group["params"]:
                    param -= 2 * group["lr"] * param.grad

    optimizer = Doubled(weights(), lr=0.3)
    with pytest.raises(InputError, match="no rule"):
        Adaptation(optimizer)

    @register(Doubled, reads_gradient=False)
    def doubled(step: Step) -> float:
        return 2 * step["lr"]

    assert "Doubled" in supported()
    adaptation = Adaptation(optimizer)
    for param in adaptation.weights:
        param.grad = torch.ones_like(param)
    optimizer.step()
    found = adaptation([torch.ones_like(param) for param in adaptation.weights])
    assert_close(found, [torch.full(shape, 0.6) for shape in SHAPES])


def test_bad_input_is_one_clear_line() -> None:
    params = weights()
    optimizer = Adam(params)
    adaptation = Adaptation(optimizer)
    with pytest.raises(InputError, match=r"no step of the base .* loss scaling skipped it"):
        adaptation(params)
    with pytest.raises(InputError, match="closure"):
        optimizer.step(lambda: 0.0)
    with pytest.raises(InputError, match="does not step the weight of shape \\(7,\\)"):
        Adaptation(optimizer, [torch.ones(7, requires_grad=True)])
    with pytest.raises(InputError, match="complex"):
        Adaptation(SGD([torch.ones(2, dtype=torch.complex64, requires_grad=True)]))
    rows = torch.nn.Embedding(4, 2, sparse=True)
    sparse = SGD(rows.parameters(), lr=0.1)
    Adaptation(sparse)
    rows(torch.tensor([1])).sum().backward()
    with pytest.raises(InputError, match="sparse"):
        sparse.step()
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    with pytest.raises(InputError, match="overwritten"):
        adaptation(params)


def test_only_the_optimiser_that_is_known_to_wrap_is_unwrapped() -> None:
    class Wrapped(Lion):
        optim = Adam(weights())

    with pytest.raises(InputError, match="Wrapped: no rule"):
        Adaptation(Wrapped(weights()))


def test_a_step_without_gradients_has_no_derivative() -> None:
    optimizer = SGD(weights(), lr=0.1)
    adaptation = Adaptation(optimizer)
    optimizer.step()
    with pytest.raises(InputError, match="no watched weight had a gradient"):
        adaptation(weights())


def test_a_closed_one_watches_no_more() -> None:
    stepped = Stepped(KINDS["adam"], 3)
    wanted = stepped.product()
    stepped.adaptation.close()
    later = [grad + 1 for grad in stepped.grads]
    recorded = stepped.adaptation._recorded
    stepped._step(stepped.params, later, stepped.optimizer)
    assert stepped.adaptation._recorded is recorded
    assert len(wanted) == len(SHAPES)

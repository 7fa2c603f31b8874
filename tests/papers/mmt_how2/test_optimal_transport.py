"""Sinkhorn's transport: marginals, symmetry, limits, exact solvers; and the loss that uses it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from common.errors import InputError
from papers.mmt_how2.fairseq_plugin.optimal_transport import (
    cosine_distance,
    single_atom_loss,
    transport_loss,
    transport_plan,
    uniform_mass,
)
from tests.papers.mmt_how2.networks import TASK, batch_of, model_of

from fairseq.criterions.cross_entropy import CrossEntropyCriterion  # isort: skip
from papers.mmt_how2.fairseq_plugin.visual_semantic_regularizer import (  # isort: skip
    VisualSemanticRegularizer,
)


def bags(sizes: list[tuple[int, int]], dim: int = 5, seed: int = 0) -> Any:
    """Two padded batches of random bags, and their masses."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for side in range(2):
        counts = torch.tensor([size[side] for size in sizes])
        present = torch.arange(int(counts.max())).unsqueeze(0) < counts.unsqueeze(1)
        vectors = torch.randn(*present.shape, dim, generator=generator)
        found += [vectors, uniform_mass(present)]
    return found


def test_marginals_and_pads() -> None:
    left, a, right, b = bags([(7, 5), (3, 6), (1, 2)])
    plan = transport_plan(cosine_distance(left, right), a, b, epsilon=0.1, iterations=300)
    torch.testing.assert_close(plan.sum(2), a, rtol=0, atol=1e-4)
    torch.testing.assert_close(plan.sum(1), b, rtol=0, atol=1e-5)
    assert plan[1, 3:].eq(0).all()
    assert plan[0, :, 5:].eq(0).all()


def test_pads_do_not_matter() -> None:
    left, a, right, b = bags([(7, 5), (3, 6)])
    cost = cosine_distance(left, right)
    both = transport_loss(cost, a, b, 0.1, 50)
    alone = transport_loss(cost[1:, :3, :6], a[1:, :3], b[1:, :6], 0.1, 50)
    torch.testing.assert_close(both[1:], alone)


def test_symmetric_in_its_arguments() -> None:
    left, a, right, b = bags([(7, 5), (3, 6)])
    cost = cosine_distance(left, right)
    there = transport_loss(cost, a, b, 0.1, 300)
    torch.testing.assert_close(transport_loss(cost.transpose(1, 2), b, a, 0.1, 300), there)


def test_equal_bags_cost_nothing_as_epsilon_falls() -> None:
    left, a, _, _ = bags([(6, 6)])
    cost = cosine_distance(left, left)
    costs = [
        float((transport_plan(cost, a, a, epsilon, 2000) * cost).sum())
        for epsilon in (0.3, 0.1, 0.03, 0.01)
    ]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 1e-4


def test_agrees_with_an_exact_solver() -> None:
    left, a, right, b = bags([(7, 5)])
    cost = cosine_distance(left, right)
    n, m = 7, 5
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    exact = linprog(
        cost.numpy().ravel().astype(float),
        A_eq=np.vstack((rows, columns)),
        b_eq=np.concatenate((a[0], b[0])),
    )
    found = float((transport_plan(cost, a, b, 0.01, 2000) * cost).sum())
    assert found == pytest.approx(exact.fun, abs=1e-3)


def test_agrees_with_pots_entropic_solver() -> None:
    ot = pytest.importorskip("ot")
    left, a, right, b = bags([(7, 5)])
    cost = cosine_distance(left, right)
    expected = ot.sinkhorn(
        a[0].double().numpy(), b[0].double().numpy(), cost[0].double().numpy(), 0.1, stopThr=1e-9
    )
    found = transport_plan(cost, a, b, 0.1, 300)[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 1.0])
def test_one_atom_is_the_mean_cosine_distance_whatever_epsilon_is(epsilon: float) -> None:
    left, a, _, _ = bags([(7, 1), (3, 1)])
    atom = torch.randn(2, 5, generator=torch.Generator().manual_seed(3))
    cost = cosine_distance(left, atom.unsqueeze(1))
    plan = transport_plan(cost, a, torch.ones(2, 1), epsilon, 1)
    expected = single_atom_loss(left, a, atom)
    torch.testing.assert_close((plan * cost).sum(dim=(1, 2)), expected, rtol=0, atol=1e-5)
    cosine = torch.cosine_similarity(left[1, :3], atom[1].expand(3, 5))
    assert float(expected[1]) == pytest.approx(float(1 - cosine.mean()), abs=1e-5)


def test_gradient_is_that_of_the_optimum() -> None:
    """The envelope's gradient against differences of the converged value."""
    left, a, right, b = (part.double() for part in bags([(4, 3)]))
    left.requires_grad_()
    value = transport_loss(cosine_distance(left, right), a, b, 0.2, 500)
    (gradient,) = torch.autograd.grad(value.sum(), left)
    direction = torch.randn_like(left)
    step = 1e-2
    ends = [
        float(transport_loss(cosine_distance(left.detach() + s * direction, right), a, b, 0.2, 500))
        for s in (step, -step)
    ]
    slope = (ends[0] - ends[1]) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=2e-2)


def criterion(gamma: float, **options: Any) -> VisualSemanticRegularizer:
    given = {"tau": 0.01, "epsilon": 0.1, "iterations": 20} | options
    named = {f"regularizer_{name}": value for name, value in given.items()}
    return VisualSemanticRegularizer(TASK, gamma, sentence_avg=False, **named)


def regularised() -> Any:
    return model_of(criterion="visual_semantic_regularizer")


def test_weight_zero_is_cross_entropy() -> None:
    model, batch = regularised(), batch_of([5, 4, 2])
    loss, size, log = criterion(0.0)(model, batch)
    expected, same, _ = CrossEntropyCriterion(TASK, sentence_avg=False)(model, batch)
    torch.testing.assert_close(loss, expected)
    assert size == same == batch["ntokens"]
    assert float(log["nll_loss"]) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_the_loss_is_the_papers_mixture_with_transport_once_a_token() -> None:
    model, batch = regularised(), batch_of([5, 4, 2])
    nll, _, _ = criterion(0.0)(model, batch, reduce=False)
    transport, _, log = criterion(1.0)(model, batch, reduce=False)
    mixed, _, _ = criterion(0.3)(model, batch, reduce=False)
    torch.testing.assert_close(mixed, 0.7 * nll + 0.3 * transport)
    lengths = batch["target"].ne(TASK.target_dictionary.pad()).sum(1)
    assert float(log["transport"]) == pytest.approx(float((transport / lengths).sum()), rel=1e-5)


def test_the_loss_of_a_sentence_does_not_depend_on_its_batch() -> None:
    from tests.papers.mmt_how2.networks import one_of

    model, batch = regularised(), batch_of([5, 4, 2])
    together, _, _ = criterion(0.5)(model, batch, reduce=False)
    for row in range(3):
        alone, _, _ = criterion(0.5)(model, one_of(batch, row), reduce=False)
        torch.testing.assert_close(alone, together[row : row + 1], rtol=1e-4, atol=1e-4)


def test_half_precision_logits_do_not_overflow() -> None:
    """Divided by tau = 0.01, a logit of 700 is beyond float16."""
    model, batch = regularised(), batch_of([5, 4, 2])
    extra = {"visual": torch.randn(3, 7).half()}
    logits = (torch.randn(*batch["target"].shape, len(TASK.target_dictionary)) * 700).half()
    present = batch["target"].ne(TASK.target_dictionary.pad())
    found = criterion(1.0).transport(model, logits, batch["target"], present, extra)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()


def test_the_regulariser_alone_leaves_decoding_to_the_text() -> None:
    model, batch = regularised(), batch_of([5, 4, 2])
    assert model.encoder.visual is not None
    other = batch["net_input"] | {"visual": torch.randn_like(batch["net_input"]["visual"])}
    with torch.no_grad():
        assert torch.equal(model(**batch["net_input"])[0], model(**other)[0])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"gamma": 2.0}, "--regularizer-gamma 2.0; allowed: 0 to 1"),
        ({"gamma": 0.1, "tau": 0.0}, "--regularizer-tau 0.0; allowed: above 0"),
        ({"gamma": 0.1, "iterations": 0}, "--regularizer-iterations 0; allowed: from 1"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        criterion(**options)


def test_a_model_that_encodes_no_picture_is_refused() -> None:
    with pytest.raises(InputError, match="the model encodes no picture"):
        criterion(0.1)(model_of(), batch_of([3]))
    model = model_of(criterion="visual_semantic_regularizer", visual_embed_dim=3)
    with pytest.raises(InputError, match="allowed: 7, as --decoder-embed-dim"):
        criterion(0.1)(model, batch_of([3, 2]))

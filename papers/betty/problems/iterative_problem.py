"""A problem whose optimum is differentiated through the steps that led to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import InputError
from papers.betty.hypergradient.differentiable import Differentiable
from papers.betty.hypergradient.vectors import Partial, Vector, added, split
from papers.betty.problems.problem import Problem, Program
from papers.betty.problems.reads import leaves
from papers.betty.problems.unrolled_optimizer import UnrolledOptimizer


class IterativeProblem(Problem):
    """Records its optimiser steps where an upper differentiates through them (ITD-RMAD).

    An upper does so with ``first_order=False``, or all do with this problem's type ``itd``.
    Otherwise it is an :class:`ImplicitProblem`. The optimiser must be SGD, Adam or AdamW, in fp32
    or bf16; its state goes on from step to step as without recording.
    """

    def initialize(self, engine: Program) -> None:
        super().initialize(engine)
        uppers = [problem for problem in engine.problems if self._is_unrolled_by(problem)]
        self.unrolls, self._uppers = bool(uppers), uppers
        readers = [name for name, lowers in engine.graph.u2l.items() if self.name in lowers]
        self._read = [*self.children, *engine.named(readers)]
        if self.unrolls:
            if self.scaler is not None:
                raise InputError(f"problem {self.name!r}: unrolled steps need fp32 or bf16")
            again = [upper.name for upper in uppers if engine.graph.l2u[upper.name]]
            if engine.config.roll_back and again:
                raise InputError(
                    f"problem {self.name!r}: type 'itd' with roll_back: {again[0]!r} would"
                    " differentiate its steps once more when they are forgotten; allowed where it"
                    " is the uppermost problem, or with another type"
                )
            self._unrolled = UnrolledOptimizer(self.optimizer, self.name)
            self._weights: list[Tensor] = []
            source = self.starts_from()
            if source is not None and source not in self._read:
                raise InputError(
                    f"problem {self.name!r}: starts from {source.name!r} without an edge u2l from"
                    " there, so the start would have no derivative"
                )

    def _is_unrolled_by(self, upper: Problem) -> bool:
        assert self.engine is not None
        factors = self.engine.graph.factors(upper.name)
        inside = any(factor.problem == self.name for factor in factors)
        return inside and self.jacobian_type(upper) == "itd"

    def jacobian_type(self, upper: Differentiable) -> str:
        return "itd" if not upper.config.first_order else self.config.type

    def _begin_loop(self) -> None:
        super()._begin_loop()
        if self.unrolls:
            self._weights = [p.detach().clone().requires_grad_() for p in self._stepped()]
            self._start = list(self._weights)
            self._gradient: Partial | None = None
            self._seen: dict[str, list[Vector]] = {prev.name: [] for prev in self._read}
            self._unrolled.begin(self._stepped())

    def _end_loop(self) -> None:
        super()._end_loop()
        # An upper that waits for other problems too has yet to read the record.
        if self.unrolls and all(
            up.count > seen for up, seen in zip(self._uppers, self._counts, strict=True)
        ):
            self._weights, self._start, self._seen = [], [], {}
            self._gradient = None
            self._unrolled.end()

    def _stepped(self) -> list[Tensor]:
        return self.trainable_parameters()

    def one_step_descent(self, batch: Any = None) -> dict[str, Any]:
        """One step, recorded: the weights become a function of what the cost read."""
        if not self.unrolls or self._loop.starts:  # a roll-back repeats a step after the loop
            return super().one_step_descent(batch)
        self.cur_batch = self.get_batch() if batch is None else batch
        self._counts = [upper.count for upper in self._uppers]
        with ExitStack() as stack:
            stack.enter_context(standing_in(self, self._stepped(), self._weights))
            for prev in self._read:
                tensors = prev.trainable_parameters()
                snapshot = self._snapshot(prev, tensors)
                stack.enter_context(standing_in(prev, tensors, snapshot))
            with self._recorded():
                loss, stats = self.get_loss(self.cur_batch)
            gradient = torch.autograd.grad(
                loss, self._weights, create_graph=True, allow_unused=True
            )
        self.look_at_reads(loss)
        self.check_unused(gradient, self._stepped())
        self.warn_of_no_gradient(gradient)
        self._gradient = added(self._gradient, gradient)
        if self._loop.count % self.config.gradient_accumulation == 0:
            self._update(self._gradient)
            self._gradient = None
        return stats

    def look_at_reads(self, loss: Tensor) -> None:
        """Also refuse a cost that reads a parameter itself instead of what stands in for it.

        Raises:
            InputError: it does, e.g. from a list made earlier: no derivative would go through it.
        """
        if self.unrolls and not self._loop.starts and self.first_time("stand-ins"):
            read = leaves(loss)
            for problem in (self, *self._read):
                if any(id(param) in read for param in problem.trainable_parameters()):
                    raise InputError(
                        f"problem {self.name!r}: its cost reads parameters of {problem.name!r} from"
                        " a list or an optimizer, past the recorded steps; allowed: a problem's"
                        " parameters(), its module, or a call"
                    )
        super().look_at_reads(loss)

    def _snapshot(self, prev: Problem, tensors: Sequence[Tensor]) -> Vector:
        """What a step reads of ``prev``, as leaves of the recorded graph.

        One that is stepped after this loop alone cannot move in it: one snapshot for all steps, and
        no copy if no other problem looks at the record after it has moved.
        """
        seen = self._seen[prev.name]
        still = prev.children == [self]
        if not (seen and still):
            last = still and self._uppers == [prev]
            values = [t.detach() if last else t.detach().clone() for t in tensors]
            seen.append([value.requires_grad_() for value in values])
        return seen[-1]

    def _update(self, gradient: Partial) -> None:
        gradient = self.distribution.averaged(gradient, self._weights)
        clip = self.config.gradient_clipping
        present = [g for g in gradient if g is not None]
        if clip > 0 and present:
            length = torch.stack([g.norm() for g in present]).norm()
            factor = (clip / (length + 1e-6)).clamp(max=1.0)
            gradient = [None if g is None else g * factor for g in gradient]
        self._weights = self._unrolled.step(self._weights, gradient)
        params = self._stepped()
        with torch.no_grad():
            torch._foreach_copy_(params, [weight.detach() for weight in self._weights])
        self.param_callback()
        if getattr(self.param_callback, "__func__", None) is not Problem.param_callback:
            # What it changed is a constant to the recorded steps.
            pairs = zip(self._weights, params, strict=True)
            self._weights = [w + (p.detach() - w.detach()) for w, p in pairs]
        if self.scheduler is not None:
            self.optimizer.step()  # without gradients it does nothing, and schedules wait for it
            self.scheduler.step()

    def unrolled_product(self, vector: Vector, prevs: Sequence[Differentiable]) -> list[Partial]:
        """``vector`` times the Jacobian of the present weights by what the loop read of ``prevs``.

        Where that moved between the steps, the sum over what each step read is the
        derivative by a common shift. The start of a loop is read of the problem it starts from.
        """
        source = self.starts_from()
        read = [
            [*self._seen[prev.name], *([self._start] if prev is source else [])] for prev in prevs
        ]
        snapshots = [snapshot for each in read for snapshot in each]
        flat = torch.autograd.grad(
            self._weights,
            [tensor for snapshot in snapshots for tensor in snapshot],
            grad_outputs=vector,
            retain_graph=len(self._uppers) > 1,  # else it is freed on the way back
            allow_unused=True,
        )
        pieces = iter(split(flat, snapshots))
        results = []
        for prev, each in zip(prevs, read, strict=True):
            total: Partial | None = None
            for _ in each:
                total = added(total, next(pieces))
            results.append(seen_by_hooks(prev.trainable_parameters(), total or []))
        return results


@contextmanager
def standing_in(
    problem: Problem, originals: Sequence[Tensor], replacements: Sequence[Tensor]
) -> Iterator[None]:
    """Let ``problem`` compute with ``replacements`` in the place of some of its parameters.

    Its module holds them, and :meth:`Problem.parameters` lists them.
    """
    module = problem.module
    by_id = {id(old): new for old, new in zip(originals, replacements, strict=True)}
    places = [
        (part._parameters, name, old)
        for part in module.modules()
        for name, old in part._parameters.items()
        if id(old) in by_id
    ]
    listed, problem._listed = problem._listed, None
    try:
        for slots, name, old in places:
            slots[name] = by_id[id(old)]  # type: ignore[assignment]
        _refresh(module)
        yield
    finally:
        for slots, name, old in places:
            slots[name] = old
        problem._listed = listed
        _refresh(module)


def seen_by_hooks(params: Sequence[Tensor], partial: Partial) -> Partial:
    """``partial`` after hooks on ``params``, which autograd calls only on the way to them."""
    given = [(p, g) for p, g in zip(params, partial, strict=True) if g is not None]
    if not given:
        return partial
    seen = torch.autograd.grad(
        [p.view_as(p) for p, _ in given], [p for p, _ in given], [g for _, g in given]
    )
    remaining = iter(seen)
    return [None if g is None else next(remaining) for g in partial]


def _refresh(module: nn.Module) -> None:
    """Recurrent modules keep a second list of their parameters."""
    for part in module.modules():
        if isinstance(part, nn.RNNBase):
            part._flat_weights = [getattr(part, name, None) for name in part._flat_weights_names]


#: Its name in the published package for recording by the library "higher", not needed here.
HigherIterativeProblem = IterativeProblem

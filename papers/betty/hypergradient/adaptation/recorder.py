"""Watches an optimiser's steps and multiplies vectors by the Jacobian of the last one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.errors import InputError
from papers.betty.hypergradient.adaptation.clipping import Clip, NormClip, ValueClip
from papers.betty.hypergradient.adaptation.record import Kept, Record
from papers.betty.hypergradient.adaptation.registry import Rule, find_rule
from papers.betty.hypergradient.adaptation.shares import Shares
from papers.betty.hypergradient.adaptation.step import precise, within
from papers.betty.hypergradient.shards import is_sharded
from papers.betty.hypergradient.vectors import Vector, local


class Adaptation:
    """The product with ``(du/dg)'`` of the last step of an optimiser, clipping included.

    ::

        adaptation = Adaptation(optimizer)
        loss.backward()
        adaptation.clip_grad_norm_(1.0)  # in the place of torch's
        optimizer.step()
        v = adaptation(vector)

    Between step and product the last gradient is kept: no copy, but its memory is free only after
    the next step. It must not be overwritten: ``zero_grad(set_to_none=True)``, torch's default.

    Args:
        optimizer: of torch, with its own kernels, groups, schedules, loss scaling. A
            ``ZeroRedundancyOptimizer`` has the state of its share alone; the processes' D are then
            exchanged.
        weights: the parameters that vectors are shaped like, in this order; by default all that the
            optimiser steps. With those of the last layer only their gradients are kept.
        group: processes that a program of its own has spread the optimiser's state over.

    Raises:
        InputError: the optimiser has no rule, a weight is complex, or not the optimiser's.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        weights: Iterable[Tensor] | None = None,
        group: Any = None,
    ) -> None:
        stepping = _unwrapped(optimizer)
        if stepping is not optimizer:
            group = getattr(optimizer, "process_group", group)
        self.rule: Rule = find_rule(stepping)
        self._optimizer, self._takes_all = optimizer, weights is None
        held = self._held()
        self.weights: list[Tensor] = (
            [p for p in held if p.requires_grad] if weights is None else list(weights)
        )
        self.group = group
        self._places = {id(weight): place for place, weight in enumerate(self.weights)}
        self._check(stepping, held)
        self._shares: Shares | None = None
        self._own: set[int] = set()
        self._ready = False
        self._recorded: list[Record] = []
        self._coming: list[Record] = []
        self._coming_clip: _Clipped | None = None
        self._clip: _Clipped | None = None
        self._hooks = (
            stepping.register_step_pre_hook(self._before),
            stepping.register_step_post_hook(self._after),
        )

    def _check(self, optimizer: torch.optim.Optimizer, held: Sequence[Tensor]) -> None:
        kind = type(optimizer).__name__
        if not self.weights:
            raise InputError(f"optimizer {kind}: it has no parameters that require a gradient")
        known = {id(p) for p in held}
        for weight in self.weights:
            shape = tuple(weight.shape)
            if id(weight) not in known:
                raise InputError(f"optimizer {kind}: it does not step the weight of shape {shape}")
            if weight.is_complex():
                raise InputError(f"optimizer {kind}: a weight of shape {shape} is complex")
            if not self.rule.diagonal and (self.group is not None or is_sharded(weight)):
                raise InputError(
                    f"optimizer {kind}: its update is not element-wise, and a weight of shape"
                    f" {shape} or its state is spread over processes; allowed: whole ones"
                )

    # Around a step.

    def _held(self) -> list[Tensor]:
        """The optimiser's parameters, groups that were added since included."""
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """Clip all gradients of the optimiser's parameters together, as torch does.

        Returns the norm before. Clipping of another kind is told by :meth:`clipped`.
        """
        self._refuse_a_second_clip()
        total = torch.nn.utils.clip_grad_norm_(self._held(), max_norm)
        total = total.full_tensor() if is_sharded(total) else total  # type: ignore[attr-defined]
        self.clipped(NormClip(total, max_norm))
        return total

    def clip_grad_value_(self, clip_value: float) -> None:
        """Clip each element, as torch does."""
        self._refuse_a_second_clip()
        torch.nn.utils.clip_grad_value_(self._held(), clip_value)
        self.clipped(ValueClip(clip_value))

    def clipped(self, clip: Clip) -> None:
        """Say that gradients have been clipped for the step to come.

        Raises:
            InputError: they have been clipped before.
        """
        self._refuse_a_second_clip()
        places = [place for place, p in enumerate(self.weights) if p.grad is not None]
        self._coming_clip = _Clipped(clip, places, Kept(self._grads()))

    def _refuse_a_second_clip(self) -> None:
        if self._coming_clip is not None and self._coming_clip.grads.any_of(self._grads()):
            raise InputError(
                "SAMA: gradients are clipped twice before a step; allowed: one clip, and"
                " zero_grad(set_to_none=True) after a step that was skipped"
            )

    def _grads(self) -> Vector:
        return [grad for p in self.weights if (grad := p.grad) is not None]

    def _before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        name = type(optimizer).__name__
        if any(each is not None for each in (*args[1:], *kwargs.values())):
            raise InputError(
                f"optimizer {name}: step() was given a closure, which computes gradients inside"
                " of it; allowed: backward() before step()"
            )
        if self._coming_clip is not None and not self._coming_clip.grads.are(self._grads()):
            if self._coming_clip.grads.any_of(self._grads()):
                raise InputError(
                    f"optimizer {name}: a gradient was replaced between clipping and the step;"
                    " allowed: clipping as the last change"
                )
            self._coming_clip = None  # of gradients that loss scaling did not step along
        self._coming = []
        for group in optimizer.param_groups:
            params = [p for p in group["params"] if id(p) in self._places]
            if self._takes_all:
                self._refuse_new_ones(name, group["params"])
            self._own.update(self._places[id(p)] for p in params)
            params = [p for p in params if p.grad is not None]
            if any(p.grad.layout != torch.strided for p in params):
                raise InputError(f"optimizer {name}: a gradient is sparse; allowed: dense ones")
            if params:
                places = [self._places[id(p)] for p in params]
                self._coming.append(Record(self.rule, optimizer.state, group, params, places))

    def _refuse_new_ones(self, name: str, params: Sequence[Tensor]) -> None:
        for p in params:
            if p.grad is not None and id(p) not in self._places:
                raise InputError(
                    f"optimizer {name}: a parameter of shape {tuple(p.shape)} has joined or been"
                    " unfrozen; allowed: an Adaptation made afterwards, or with `weights`"
                )

    def _after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        found_inf = getattr(optimizer, "found_inf", None)
        clip, self._coming_clip = self._coming_clip, None
        coming, self._coming = self._coming, []
        if found_inf is not None and bool(found_inf):
            return  # loss scaling has skipped the step: the last one is that before
        for record in coming:
            record.keep_gradients()
        self._recorded, self._clip, self._ready = coming, clip, True

    # Products.

    def __call__(self, vector: Sequence[Tensor], *, consume: bool = False) -> Vector:
        """``(du/dg)' vector``, in single precision or better.

        Zero for a weight that had no gradient in the step: its update does not depend on one.

        Args:
            vector: shaped like ``weights``; of sharded ones, their shards or what they make up.
            consume: empty ``vector``, a list, so that its tensors are freed as products take their
                place: of both together there is then never more than one copy.

        Returns:
            Of sharded weights their shards.

        Raises:
            InputError: there was no step, or one without gradients, or they were overwritten.
        """
        if not self._ready:
            raise InputError(
                "SAMA: no step of the base optimiser is at hand; allowed: after a step, and once a"
                " step unless its gradients are kept, or loss scaling skipped it: then skip the"
                " meta step"
            )
        if self.group is None and not self._recorded:
            raise InputError(
                "SAMA: no watched weight had a gradient in the last base step; allowed: one that"
                " steps some of them"
            )
        parts = precise(local(vector))
        if consume:
            assert isinstance(vector, list)
            vector.clear()
        if self.group is None:
            parts = self._multiplied(parts)
        else:
            ones = [torch.ones_like(part) for part in parts]
            shapes = [weight.shape for weight in self.weights]
            if self._shares is None:
                self._shares = Shares(sorted(self._own), shapes, self.group)
            diagonal = self._shares.gather(self._multiplied(ones))
            parts = list(torch._foreach_mul(parts, diagonal))
        return parts if self._clip is None else self._clip.product(parts, self.weights)

    @property
    def flat(self) -> bool:
        """Whether D vanishes: after the first step of an optimiser of which that is as long for a
        small gradient as for a large one."""
        counts = [max(record.numbers) for record in self._recorded]
        # Adagrad may start from squares that are not 0.
        started = any(record.settings.get("initial_accumulator_value") for record in self._recorded)
        return self.rule.flat_start and not started and bool(counts) and max(counts) < 2

    def forget(self) -> None:
        """Free the gradients of the last step; its Jacobian is then no more at hand."""
        self._recorded, self._clip, self._ready = [], None, False

    def close(self) -> None:
        """Stop watching."""
        for hook in self._hooks:
            hook.remove()

    def _multiplied(self, vector: Vector) -> Vector:
        """By the optimiser's own Jacobian, without clipping; zero where it took no step.

        In the place of ``vector``, for its tensors to be freed one by one.
        """
        stepped = set[int]()
        for record in self._recorded:
            for places, step in record.steps():
                parts = [vector[place] for place in places]
                products = self.rule.product(step, within(parts, step.span))
                stepped.update(places)
                if step.span is not None:
                    (whole,) = parts
                    if step.span.start == 0:
                        row = whole.new_empty(whole.numel())
                    row[step.span] = products[0]
                    if step.span.stop < len(row):
                        continue
                    products = [row.view(whole.shape)]
                for place, product in zip(places, products, strict=True):
                    vector[place] = product
        for place, part in enumerate(vector):
            if place not in stepped:
                vector[place] = torch.zeros_like(part)
        return vector


def _unwrapped(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimiser that a ``ZeroRedundancyOptimizer`` steps with; others as they are."""
    inner = getattr(optimizer, "optim", None)
    if isinstance(inner, torch.optim.Optimizer):
        from torch.distributed.optim import ZeroRedundancyOptimizer

        if isinstance(optimizer, ZeroRedundancyOptimizer):
            return inner
    return optimizer


class _Clipped(NamedTuple):
    """A clip, and the gradients, of the weights at some places, that it left."""

    clip: Clip
    places: list[int]
    grads: Kept

    def product(self, vector: Vector, weights: Sequence[Tensor]) -> Vector:
        """Pull a vector back to the gradients before the clip."""
        parts = [vector[place] for place in self.places]
        of = [weights[place] for place in self.places]
        found = list(vector)  # what had no gradient is zero already
        for place, part in zip(
            self.places, self.clip.product(parts, self.grads.get(), of), strict=True
        ):
            found[place] = part
        return found

"""What is kept of a step from when it was taken until its Jacobian is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from common.errors import InputError
from papers.betty.hypergradient.adaptation.registry import Rule
from papers.betty.hypergradient.adaptation.step import Step, numbers, precise, within
from papers.betty.hypergradient.vectors import Vector, local

#: Numbers that a rule is applied to at a time.
PIECE, PIECE_ON_CPU = 2**25, 2**16


class Kept:
    """Tensors that are kept without a copy, and that nobody may overwrite meanwhile."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = local(tensors)
        self._versions = [tensor._version for tensor in self._tensors]

    def get(self) -> Vector:
        """The tensors. Raises InputError if one has been changed in place."""
        if [tensor._version for tensor in self._tensors] != self._versions:
            raise InputError(
                "SAMA: gradients of the last base step have been overwritten; allowed:"
                " zero_grad(set_to_none=True) after it, and no backward() before the meta step"
            )
        return self._tensors

    def are(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these are the ones, by where they lie."""
        return _pointers(self._tensors) == _pointers(local(tensors))

    def any_of(self, tensors: Sequence[Tensor]) -> bool:
        """Whether one of these is among them; empty ones lie nowhere."""
        return bool({*_pointers(self._tensors)} & {*_pointers(local(tensors))} - {0})


def _pointers(tensors: Sequence[Tensor]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


class Record:
    """One step of the parameters of a group that had a gradient.

    Made before the step; :meth:`keep_gradients` is called after it, when fused kernels have
    removed the loss scale.
    """

    def __init__(
        self,
        rule: Rule,
        states: Mapping[Tensor, Mapping[str, Any]],
        group: Mapping[str, Any],
        params: Sequence[Tensor],
        places: Sequence[int],
    ) -> None:
        self.places = list(places)
        # A schedule may change them before the product; a learning rate may be a tensor.
        self.settings = {
            name: value.clone() if isinstance(value, Tensor) else value
            for name, value in group.items()
            if name != "params"
        }
        self._rule, self._params, self._all_states = rule, list(params), states
        self._remembered: dict[str, Sequence[Any]] = {}
        self._grads: Kept | None = None
        with torch.no_grad():
            if rule.remember is not None:
                before = [states.get(param, {}) for param in params]
                self._remembered |= rule.remember(params, before, group)
            decay = group.get("weight_decay", 0)
            coupled = rule.l2 and not group.get("decoupled_weight_decay", False)
            if coupled and rule.reads_gradient and decay:
                weights = precise(local(params))
                self._remembered["decay"] = torch._foreach_mul(weights, float(decay))

    def keep_gradients(self) -> None:
        """Keep the gradients of the step that has been taken, if the rule reads them."""
        if self._rule.reads_gradient:
            grads = [param.grad for param in self._params]
            self._grads = Kept([grad for grad in grads if grad is not None])

    @property
    def numbers(self) -> list[float]:
        """Steps that each parameter has taken; 0 where the optimiser does not count."""
        states = [self._all_states.get(param, {}) for param in self._params]
        if not states or "step" not in states[0]:
            return [0.0] * len(states)
        return numbers([state["step"] for state in states])

    def steps(self) -> Iterator[tuple[list[int], Step]]:
        """(places of weights, their step), in pieces: alike in their number of steps, and small
        enough that what a rule computes in between is small, and on a CPU in the cache.

        Of one large weight there may be several in a row, of its first numbers and so on.
        """
        counted = self.numbers
        grads = self._grads.get() if self._grads is not None else []
        for number in dict.fromkeys(counted):
            alike = [index for index, each in enumerate(counted) if each == number]
            for piece in _pieces(alike, self._params):

                def chosen(values: Sequence[Any], piece: Sequence[int] = piece) -> list[Any]:
                    return [values[index] for index in piece]

                for span in self._spans(piece):
                    yield (
                        chosen(self.places),
                        Step(
                            self.settings,
                            [self._all_states.get(param, {}) for param in chosen(self._params)],
                            within(chosen(grads), span) if grads else [],
                            {
                                name: _inside(chosen(values), span)
                                for name, values in self._remembered.items()
                            },
                            number,
                            span,
                        ),
                    )

    def _spans(self, piece: Sequence[int]) -> Iterator[slice | None]:
        """Parts of a piece: one, but for a single large weight of a rule that allows it."""
        first = local([self._params[piece[0]]])[0]
        size, most = first.numel(), PIECE_ON_CPU if first.is_cpu else PIECE
        if len(piece) > 1 or size <= most or not self._rule.splits:
            yield None
            return
        for start in range(0, size, most):
            yield slice(start, min(start + most, size))


def _inside(values: Sequence[Any], span: slice | None) -> list[Any]:
    """Of remembered tensors some numbers."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    return within(local(tensors), span) if len(tensors) == len(values) else list(values)


def _pieces(indices: Sequence[int], params: Sequence[Tensor]) -> Iterator[list[int]]:
    """Runs of ``indices`` whose parameters together have no more numbers than a piece should.

    A larger one is alone.
    """
    piece: list[int] = []
    size = 0
    for index in indices:
        numel = local([params[index]])[0].numel()
        if piece and size + numel > (PIECE_ON_CPU if params[index].is_cpu else PIECE):
            yield piece
            piece, size = [], 0
        piece.append(index)
        size += numel
    if piece:
        yield piece

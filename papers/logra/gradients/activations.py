"""Inputs, output gradients and named tensors of a batch, for those who ask to log them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

#: {name: {"forward" | "backward": tensor}}
ActivationLog = dict[str, dict[str, Tensor]]


class Activations:
    """Gathers tensors of one batch.

    Args:
        kinds: ``forward`` for values, ``backward`` for their gradients.
    """

    def __init__(self, kinds: Collection[str]) -> None:
        self.kinds = kinds
        self.log: ActivationLog = {}
        #: Whether gradients of the backward pass that runs are those of the loss.
        self.counts: Callable[[], bool] = lambda: True

    @contextmanager
    def of_layers(self, layers: Mapping[str, nn.Module]) -> Iterator[None]:
        """Log these layers' inputs and their outputs' gradients; uses of a layer add up."""
        handles = []
        try:
            for name, module in layers.items() if self.kinds else ():
                hook = partial(self._after_forward, name)
                handles.append(module.register_forward_hook(hook, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def of_tensor(self, name: str, tensor: Tensor) -> None:
        """Log a tensor of the forward pass and its gradient."""
        if "forward" in self.kinds:
            self._add(name, "forward", tensor)
        self._log_gradient(name, tensor)

    def _after_forward(
        self,
        name: str,
        module: nn.Module,
        args: tuple[Tensor, ...],
        kwargs: dict[str, Any],
        output: Tensor,
    ) -> None:
        if "forward" in self.kinds:
            self._add(name, "forward", (args or tuple(kwargs.values()))[0])
        self._log_gradient(name, output)

    def _log_gradient(self, name: str, tensor: Tensor) -> None:
        if "backward" in self.kinds and tensor.requires_grad:
            tensor.register_hook(partial(self._add_gradient, name))  # type: ignore[no-untyped-call]

    def _add_gradient(self, name: str, gradient: Tensor) -> None:
        if self.counts():
            self._add(name, "backward", gradient)

    def _add(self, name: str, kind: str, tensor: Tensor) -> None:
        log = self.log.setdefault(name, {})
        # A copy, for the tensor may be changed in place after this.
        log[kind] = log[kind] + tensor.detach() if kind in log else tensor.detach().clone()

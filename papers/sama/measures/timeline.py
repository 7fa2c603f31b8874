"""What a process does when, and what it sends: forward and backward passes, collectives."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode


class Event(NamedTuple):
    """A span of time, in seconds since the timeline began; ``what`` is one of :data:`KINDS`."""

    what: str
    start: float
    end: float


#: Passes are told apart by their order; ``sent`` is an all-reduce, from its start to its end.
KINDS = ("forward", "backward", "sent", "step")


class Timeline:
    """Notes events of one process."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._zero = perf_counter()

    def begin(self) -> None:
        """Forget all events; the time is 0 now."""
        self.events = []
        self._zero = perf_counter()

    @staticmethod
    def now() -> float:
        """The clock of :meth:`note`, in seconds."""
        return perf_counter()

    def note(self, what: str, start: float) -> None:
        """An event that began at ``start`` ends now."""
        self.events.append(Event(what, start - self._zero, perf_counter() - self._zero))

    def watched(self, cost: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """A cost whose forward pass is noted, and the backward pass from it."""

        def call() -> Tensor:
            start = perf_counter()
            value = cost()
            self.note("forward", start)
            if value.requires_grad:
                value.register_hook(self._backward_begins)  # type: ignore[no-untyped-call]
            return value

        return call

    def _backward_begins(self, _gradient: Tensor) -> None:
        start = perf_counter()
        # Called when the engine has computed all gradients.
        torch.autograd.Variable._execution_engine.queue_callback(
            lambda: self.note("backward", start)
        )

    def listen(self, module: DistributedDataParallel) -> None:
        """Note what a module sends, which is averaged as ever."""
        size = dist.get_world_size()

        def average(_, bucket):  # type: ignore[no-untyped-def]  # torch looks at annotations
            start = perf_counter()
            work = dist.all_reduce(bucket.buffer().div_(size), async_op=True)

            def done(future: Any) -> Any:
                self.note("sent", start)
                return future.value()[0]

            return work.get_future().then(done)  # type: ignore[union-attr]

        module.register_comm_hook(None, average)


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts collectives by name, and the bytes that a process gives to each."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: dict[str, int] = {}
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if "c10d" in func.namespace and "wait" not in func.__name__:
            name = func.__name__.split(".")[0]
            self.calls[name] = self.calls.get(name, 0) + 1
            given = args[1] if "allgather" in name else args[0]
            tensors = given if isinstance(given, list | tuple) else [given]
            self.bytes += sum(t.numel() * t.element_size() for t in tensors)
        return func(*args, **(kwargs or {}))

    def found(self) -> tuple[dict[str, int], int]:
        """(calls by name, bytes)."""
        return self.calls, self.bytes

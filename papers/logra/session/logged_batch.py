"""One batch from its start to its log."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from types import TracebackType

from torch import Tensor, nn

from common.errors import InputError
from papers.logra.gradients.activations import Activations
from papers.logra.gradients.capture import Capture
from papers.logra.gradients.token_masks import Mask
from papers.logra.scoring.influence import Log


class LoggedBatch:
    """A batch whose hooks are in place from now until :meth:`close`.

    Args:
        capture: that takes its gradients and statistics.
        ids: of its samples.
        mask, loss_scale: as of :meth:`Capture.batch`.
        activations: of inputs (``forward``) and output gradients (``backward``), what to log.
        saves: whether its gradients are to be stored.

    Raises:
        InputError: in the forward pass, where ids are not one for each sample.
    """

    def __init__(
        self,
        capture: Capture,
        ids: Sequence[str],
        *,
        mask: Mask | None = None,
        loss_scale: float = 1.0,
        activations: Collection[str] = (),
        saves: bool = False,
    ) -> None:
        self.capture, self.ids, self.saves = capture, list(ids), saves
        self.activations = Activations(activations)
        with ExitStack() as stack:
            for module in capture.hooked.values():
                # Before the capture sees anything of a batch that is refused.
                hook = module.register_forward_pre_hook(self._count, with_kwargs=True)
                stack.callback(hook.remove)
            self._batch = stack.enter_context(capture.batch(mask, loss_scale))
            # After the capture's hooks, which may replace a layer's output.
            self.activations.counts = lambda: self._batch.is_counted
            stack.enter_context(self.activations.of_layers(capture.layers))
            self._stack = stack.pop_all()

    def close(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        """Remove the hooks and finish, or give the batch up because of an error.

        Raises:
            InputError: what :meth:`Capture.batch` raises.
        """
        try:
            self._stack.__exit__(kind, error, trace)
        finally:
            # Nothing of a batch may refer back to it: its gradients would stay until a collection.
            self.activations.counts = lambda: True

    @property
    def has_gradients(self) -> bool:
        """Whether a backward pass has reached a layer."""
        return bool(self._batch._begun)

    @property
    def matrix(self) -> Tensor:
        """(n, width). Raises InputError before the end, or where gradients are not taken so."""
        if self.capture.rotated:
            raise InputError(
                "gradients of a pass that corrects eigenvalues alone; allowed: setup() with log"
            )
        return self._batch.matrix

    def log(self) -> Log:
        """Ids, and gradients and activations by layer. Raises InputError before the end."""
        log: dict[str, dict[str, Tensor]] = {name: {} for name in self.capture.layers}
        if self.capture.gradients and not self.capture.rotated:
            log = {name: {"grad": part} for name, part in self._batch.gradients.items()}
        for name, parts in self.activations.log.items():
            log.setdefault(name, {}).update(parts)
        return self.ids, log

    def _count(
        self, module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]
    ) -> None:
        samples = len((args or tuple(kwargs.values()))[0])
        if samples != len(self.ids):
            raise InputError(
                f"{len(self.ids)} data_id for a batch of {samples}; allowed: one for each sample"
            )

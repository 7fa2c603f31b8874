"""The kernel discriminator over codes of a network that is learned along with it.

Source: Youn et al. 2020, as the authors' code of June 2020 has it: before each online update the
encoder takes a step on the hinge loss of f, whose coefficients it holds; keys are kept as images
and encoded anew, so that the kernel's space moves with the encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import InputError
from papers.okgan.discriminator import Draw, KernelDiscriminator
from papers.okgan.divergence import DivergedError, check_finite, check_shapes
from papers.okgan.kernels import Kernel, expand


class EncodedKernelDiscriminator(KernelDiscriminator):
    """A kernel classifier of codes. Its keys are images, encoded by the encoder as it is.

    Args:
        shape: of an image, (channels, height, width).
        kernel: between codes.
        encoder: images (n, ...) -> codes (n, c).
        optimizer: makes the optimiser of its parameters.
        encoder_steps: of it in an update, each with generated images of its own.
        options: of :class:`KernelDiscriminator`.

    Raises:
        InputError: a value out of range.
    """

    encoder: nn.Module

    def __init__(
        self,
        shape: tuple[int, ...],
        kernel: Kernel,
        encoder: nn.Module,
        optimizer: Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer],
        encoder_steps: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(shape, kernel, encoder=encoder, **options)
        if encoder_steps < 1:
            raise InputError(f"encoded discriminator: encoder_steps={encoder_steps}; allowed: 1+")
        self.optimizer, self.encoder_steps = optimizer(encoder.parameters()), encoder_steps
        self._codes: Tensor | None = None

    def update(self, real: Tensor, draw: Draw) -> dict[str, float]:
        """Steps of the encoder, then the classifier's own update.

        Returns:
            As the classifier's, and ``encoder_loss``.

        Raises:
            InputError: as the classifier's.
            DivergedError: the encoder's loss or a generated point is not finite.
        """
        for _ in range(self.encoder_steps):
            fake = draw()
            check_shapes("encoder", real, fake)
            check_finite("encoder", real, fake)
            lost = self.encoder_loss(real, fake)
            if not bool(lost.isfinite()):
                raise DivergedError(f"encoder: its loss is {float(lost.detach())}")
            self.optimizer.zero_grad()
            lost.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        self._codes = None
        found = super().update(real, draw)
        return {**found, "encoder_loss": float(lost.detach())}

    def encoder_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Hinge loss of both kinds of images; its gradient flows through them and the keys."""
        keys = self._encoded_keys()
        ahead = [
            functional.relu(1 - sign * self._valued(images, keys))
            for sign, images in ((1, real), (-1, fake))
        ]
        return (ahead[0] + ahead[1]).mean()

    def generator_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        """Mean of ``max(0, 1 - f(fake))``; keys are encoded once between two updates."""
        if self._codes is None:
            with torch.no_grad():
                self._codes = self._encoded_keys()
        return functional.relu(1 - self._valued(fake, self._codes)).mean()

    def _valued(self, images: Tensor, keys: Tensor) -> Tensor:
        self._check_shape(images)
        return expand(self.kernel, self._encode(images), keys, self.coefficients) + self.offset

    def get_extra_state(self) -> dict[str, object]:
        """The classifier's, and the optimiser's."""
        return {**super().get_extra_state(), "optimizer": self.optimizer.state_dict()}

    def set_extra_state(self, state: dict[str, object]) -> None:
        """Inverse of :meth:`get_extra_state`."""
        super().set_extra_state(state)
        self.optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
        self._codes = None

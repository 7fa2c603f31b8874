"""Which tokens of each layer count in forward and backward statistics."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

from torch import Tensor, nn

from common.errors import InputError

LOGGER = logging.getLogger("logra")

#: One for all layers, or one for each part of the layers' names.
Mask = Tensor | Mapping[str, Tensor]
#: The two sides of a model that has an encoder and a decoder.
SIDES = ("encoder", "decoder")


class TokenMasks:
    """Finds the mask of a layer.

    In a model with an encoder and a decoder, whose sequences differ, a layer's tokens are the
    encoder's where it runs inside the encoder or is given what the encoder returned, as
    cross-attention's keys and values are, and else the decoder's. All tokens of a side without a
    mask count.

    Args:
        model: what runs.
        layers: names of those that are watched.
        mask: (n, t), of all layers; of an ``nn.Transformer`` and of transformers' encoder-decoder
            models, of the encoder's tokens. Or ``{"encoder": (n, t), "decoder": (n, u)}``, where a
            module has both. Or by parts of layers' names: the longest one in a name counts, and
            all tokens of a layer with none of them.

    Raises:
        InputError: a mask of no layer.
    """

    def __init__(self, model: nn.Module, layers: Iterable[str], mask: Mask | None) -> None:
        self._masks = dict(mask) if isinstance(mask, Mapping) else {}
        self._default = mask if isinstance(mask, Tensor) else None
        self.encoder = None if mask is None else self._encoder(model)
        if self.encoder is not None and self._default is not None:
            self._masks, self._default = {"encoder": self._default}, None
            _say_once(
                "a mask of an encoder-decoder model counts the encoder's tokens; the decoder's "
                'all count in statistics: mask={"encoder": (n, t), "decoder": (n, u)} gives both'
            )
        for part in self._masks if self.encoder is None else ():
            if not any(part in layer for layer in layers):
                raise InputError(f"mask of {part!r}; allowed: parts of {', '.join(layers)}")
        self._inside = False
        # What the encoder returned, by where it lies; kept, lest something else comes to lie there.
        self._returned: dict[int, Tensor] = {}
        self._sides: dict[str, str] = {}

    @contextmanager
    def following(self) -> Iterator[None]:
        """See the encoder run."""
        if self.encoder is None:
            yield
            return
        handles = (
            self.encoder.register_forward_pre_hook(self._begin),
            self.encoder.register_forward_hook(self._end, always_call=True),
        )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._returned.clear()

    def of(self, layer: str, value: Tensor, *, again: bool = False) -> Tensor | None:
        """The mask (n, t) of a layer that is given ``value``, None where all tokens count.

        Args:
            again: whether it is run a second time, for its gradient.
        """
        if self.encoder is None:
            named = [part for part in self._masks if part in layer]
            return self._masks[max(named, key=len)] if named else self._default
        if not again or layer not in self._sides:
            encoded = self._inside or value.data_ptr() in self._returned
            self._sides[layer] = SIDES[not encoded]
        return self._masks.get(self._sides[layer])

    def _encoder(self, model: nn.Module) -> nn.Module | None:
        """The encoder, where there is one and masks are of sides."""
        encoder, known = find_sides(model)
        named = bool(self._masks) and set(self._masks) <= set(SIDES)
        return encoder if named or (known and not self._masks) else None

    def _begin(self, *_: Any) -> None:
        self._inside = True

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        self._inside = False
        values = output.values() if isinstance(output, Mapping) else output
        for value in (values,) if isinstance(values, Tensor) else values or ():
            if isinstance(value, Tensor):
                self._returned[value.data_ptr()] = value.detach()


class Sides(NamedTuple):
    """The encoder of a model that has a decoder too, and whether it is known to be of that kind."""

    encoder: nn.Module | None
    known: bool


def find_sides(model: nn.Module) -> Sides:
    """The encoder of the first module with both; ``nn.Transformer`` and transformers' are known."""
    for module in model.modules():
        if all(isinstance(module._modules.get(side), nn.Module) for side in SIDES):
            config = getattr(module, "config", None)
            known = getattr(config, "is_encoder_decoder", False)
            return Sides(module._modules["encoder"], isinstance(module, nn.Transformer) or known)
    return Sides(None, known=False)


def weigh_tokens(mask: Tensor | None, layer: str, rows: Tensor) -> Tensor | None:
    """(n, groups * t) weights of rows (n, groups, t, width) under a mask, None for ones.

    Raises:
        InputError: the mask is of other samples or tokens.
    """
    n, groups, tokens, _ = rows.shape
    if mask is None or tokens == 1:
        return None
    if mask.shape != (n, tokens):
        raise InputError(
            f"mask of shape {tuple(mask.shape)}; allowed: {(n, tokens)}, the samples and tokens of "
            f"layer {layer}, or where layers differ in tokens masks by parts of layers' names"
        )
    return mask.repeat(1, groups)


@cache
def _say_once(what: str) -> None:
    LOGGER.warning(what)

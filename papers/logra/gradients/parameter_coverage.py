"""Which of a model's trained parameters influence is computed of, and why not of the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from papers.logra.gradients.attention import is_unrollable
from papers.logra.gradients.layers import has_rule
from papers.logra.gradients.parameter_paths import find_parameters
from papers.logra.gradients.watching import find_layers, is_computed, is_trained, unwrapped

#: Modules of a kind that are named before the rest is counted.
NAMED = 3
COMPUTED = "its layer's weight is computed from it, whose gradient is another one"


class Unwatched(NamedTuple):
    """Trained numbers that are not watched.

    Attributes:
        module: whose parameter it is.
        kind: the module's type.
        parameter: its name in the module.
        numbers: of it that are not watched.
        why: they are not.
    """

    module: str
    kind: str
    parameter: str
    numbers: int
    why: str


@dataclass(frozen=True)
class Coverage:
    """Trained numbers of a model, watched and not; each shared parameter once.

    Attributes:
        watched: by layer.
        unwatched: what is not watched, and why.
        frozen: watched layers of which a parameter is frozen.
    """

    watched: Mapping[str, int]
    unwatched: tuple[Unwatched, ...]
    frozen: tuple[str, ...]

    @property
    def total(self) -> int:
        """Trained numbers."""
        return sum(self.watched.values()) + sum(part.numbers for part in self.unwatched)

    @property
    def share(self) -> float:
        """The share of trained numbers that is watched; 1 where none is trained."""
        return sum(self.watched.values()) / self.total if self.total else 1.0

    def __str__(self) -> str:
        layers = f"{len(self.watched)} layers" if len(self.watched) != 1 else "1 layer"
        lines = [
            f"watched: {sum(self.watched.values()):,} of {self.total:,} trained parameters "
            f"({100 * self.share:.1f} %), in {layers}"
        ]
        groups: dict[tuple[str, str], list[Unwatched]] = {}
        for part in self.unwatched:
            groups.setdefault((part.why, part.kind), []).append(part)
        for (why, kind), parts in groups.items():
            numbers = sum(part.numbers for part in parts)
            modules = list(dict.fromkeys(part.module or "the model" for part in parts))
            lines.append(f"not watched: {numbers:,} of {kind} ({_some(modules)}): {why}")
        if self.frozen:
            lines.append(f"watched though frozen: {_some(self.frozen)}")
        return "\n".join(lines)


def measure_coverage(model: nn.Module, layers: Mapping[str, nn.Module], *, bias: bool) -> Coverage:
    """Which trained parameters of a model are in the gradients of these layers.

    Args:
        model: wrapped or not.
        layers: that are watched, by name.
        bias: whether biases count.
    """
    model = unwrapped(model)
    held: dict[int, int] = {}
    watched, frozen = dict.fromkeys(layers, 0), []
    for name, layer in layers.items():
        for kind, parameter in find_parameters(layer, bias).items():
            if not parameter.requires_grad:
                frozen.append(name)
                continue
            # A part of it, where the layer is one of an attention's three.
            numbers = min(
                getattr(layer, kind).numel(), parameter.numel() - held.get(id(parameter), 0)
            )
            watched[name] += numbers
            held[id(parameter)] = held.get(id(parameter), 0) + numbers
    candidates = find_layers(model).values()
    rest = []
    for path, parameter in model.named_parameters():
        missing = parameter.numel() - held.get(id(parameter), 0)
        if parameter.requires_grad and missing:
            where, _, name = path.rpartition(".")
            where, *computed = where.split(".parametrizations")
            module = model.get_submodule(where)
            why = COMPUTED if computed else _why(module, name, candidates, bias)
            rest.append(Unwatched(where, type(module).__name__, name, missing, why))
    return Coverage(watched, tuple(rest), tuple(dict.fromkeys(frozen)))


def _why(module: nn.Module, name: str, candidates: Iterable[nn.Module], bias: bool) -> str:
    """Why a parameter of a module is not watched."""
    if isinstance(module, nn.MultiheadAttention) and not is_unrollable(module):
        return "its forward pass is not torch's own"
    if has_rule(type(module)) and is_computed(module):
        return COMPUTED
    kind = "bias" if name.endswith("bias") else "weight"
    parameter = module._parameters[name]
    own = [layer for layer in candidates if find_parameters(layer, True).get(kind) is parameter]
    if not own:
        return "no gradient rule"
    if not any(is_trained(layer) for layer in own):
        return "the weight of its layer is frozen"
    if kind == "bias" and not bias:
        return "biases count with bias=True alone"
    if isinstance(module, nn.Embedding):
        return "embeddings are watched where type_filter names them"
    return "its layer does not pass the filters, or has no projection"


def _some(names: Sequence[str]) -> str:
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")

"""``nn.MultiheadAttention`` as four linear layers that run, so that hooks see each of them.

It multiplies by its weights itself and never runs a layer of its own. For the time of a batch its
forward pass is another one, with the same result: projections of queries, keys and values are
layers, torch's own attention is between them and the output projection, with identities for its
weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from common.errors import InputError

#: What is projected, in the order of ``in_proj_weight``.
Part = Literal["q_proj", "k_proj", "v_proj"]


class InProjection(nn.Linear):
    """The linear map of an attention's queries, keys or values.

    Its weight (embed_dim, width of what it projects) and bias (embed_dim,) are views of the
    attention's.

    Args:
        attention: whose.
        part: of what.
    """

    def __init__(self, attention: nn.MultiheadAttention, part: Part) -> None:
        nn.Module.__init__(self)
        self.attention, self.part = attention, part
        self.rows = _rows(attention, part)
        self.in_features, self.out_features = int(self.weight.shape[1]), attention.embed_dim

    @property
    def parameters_of_it(self) -> list[nn.Parameter]:
        """The attention's parameters that weight and bias are parts of."""
        attention = self.attention
        weight = attention.in_proj_weight
        if weight is None:
            weight = getattr(attention, f"{self.part}_weight")
        return [weight] if attention.in_proj_bias is None else [weight, attention.in_proj_bias]

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(embed_dim, width)."""
        if self.attention.in_proj_weight is None:
            return self.parameters_of_it[0]
        return self.attention.in_proj_weight[self.rows]

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        """(embed_dim,), or None."""
        bias = self.attention.in_proj_bias
        return None if bias is None else bias[self.rows]

    def forward(self, input: Tensor) -> Tensor:
        """(n, t, width) -> (n, t, embed_dim); weights get no gradient."""
        bias = self.bias
        return functional.linear(
            input, self.weight.detach(), None if bias is None else bias.detach()
        )


def in_projections(attention: nn.MultiheadAttention) -> dict[Part, InProjection]:
    """All three."""
    return {part: InProjection(attention, part) for part in get_args(Part)}


def is_unrollable(attention: nn.MultiheadAttention) -> bool:
    """Whether it runs as torch wrote it: what a subclass or a wrapper does is not known."""
    plain = type(attention).forward is nn.MultiheadAttention.forward
    own = attention._parameters
    weighted = any(own.get(name) is not None for name in ("in_proj_weight", "q_proj_weight"))
    return plain and weighted and "forward" not in vars(attention)


@contextmanager
def unrolled(model: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[None]:
    """Attentions of which a projection is among ``layers`` run them as layers inside."""
    watched = set(map(id, layers.values()))
    parts: dict[int, dict[Part, InProjection]] = {}
    for layer in layers.values():
        if isinstance(layer, InProjection):
            parts.setdefault(id(layer.attention), {})[layer.part] = layer
    of_attention = (InProjection, NonDynamicallyQuantizableLinear)
    some = any(isinstance(layer, of_attention) for layer in layers.values())
    with ExitStack() as stack:
        for module in model.modules() if some else ():
            if not isinstance(module, nn.MultiheadAttention) or not is_unrollable(module):
                continue
            if id(module) in parts or id(module.out_proj) in watched:
                projections = in_projections(module) | parts.get(id(module), {})
                module.forward = partial(_attend, module, projections)  # type: ignore[method-assign]
                stack.callback(delattr, module, "forward")
        yield


def _attend(
    module: nn.MultiheadAttention,
    projections: Mapping[Part, InProjection],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """What ``nn.MultiheadAttention.forward`` gives of (n, t, width), or (t, n, width)."""
    if query.dim() != 3:
        raise InputError(
            f"attention saw a query of shape {tuple(query.shape)}; allowed: with the samples, "
            "(n, t, width), or (t, n, width) without batch_first"
        )
    given = zip(projections, (query, key, value), strict=True)
    # Layers see samples first, attention sees tokens first.
    q, k, v = (
        projections[part](x if module.batch_first else x.transpose(0, 1)).transpose(0, 1)
        for part, x in given
    )
    one = torch.eye(module.embed_dim, dtype=q.dtype, device=q.device)
    mixed, weights = functional.multi_head_attention_forward(
        q,
        k,
        v,
        module.embed_dim,
        module.num_heads,
        None,
        None,
        module.bias_k,
        module.bias_v,
        module.add_zero_attn,
        module.dropout,
        one,
        None,
        training=module.training,
        key_padding_mask=key_padding_mask,
        need_weights=need_weights,
        attn_mask=attn_mask,
        use_separate_proj_weight=True,
        q_proj_weight=one,
        k_proj_weight=one,
        v_proj_weight=one,
        average_attn_weights=average_attn_weights,
        is_causal=is_causal,
    )
    found = module.out_proj(mixed.transpose(0, 1))
    return (found if module.batch_first else found.transpose(0, 1)), weights


def _rows(attention: nn.MultiheadAttention, part: Part) -> slice:
    start = get_args(Part).index(part) * attention.embed_dim
    return slice(start, start + attention.embed_dim)

"""What captured gradients are compared with: autograd, one sample at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from papers.logra.gradients.attention import InProjection
from papers.logra.gradients.capture import Capture
from papers.logra.gradients.layers import is_transformers_conv1d
from papers.logra.gradients.projections import Projections, random_projections

Loss = Callable[[Tensor], Tensor]


def gradient_of(module: nn.Module, bias: bool) -> Tensor:
    """The (out, inner) gradient that a module's parameters hold."""
    if isinstance(module, InProjection):
        return projection_gradient(module, bias)
    weight = module.weight.grad
    if isinstance(module, nn.Embedding) or is_transformers_conv1d(type(module)):
        weight = weight.T
    weight = weight.flatten(1)
    if bias and getattr(module, "bias", None) is not None:
        weight = torch.cat([weight, module.bias.grad.unsqueeze(1)], 1)
    return weight


def projection_gradient(module: InProjection, bias: bool) -> Tensor:
    """That of an attention's projection, out of its attention's."""
    attention, place = module.attention, ["q_proj", "k_proj", "v_proj"].index(module.part)
    weight = attention.in_proj_weight
    if weight is None:
        gradient = getattr(attention, f"{module.part}_weight").grad
    else:
        gradient = weight.grad.chunk(3)[place]
    if bias and attention.in_proj_bias is not None:
        column = attention.in_proj_bias.grad.chunk(3)[place]
        gradient = torch.cat([gradient, column.unsqueeze(1)], 1)
    return gradient


def autograd_gradients(
    model: nn.Module, layers: Mapping[str, nn.Module], loss: Loss, data: Tensor, bias: bool = False
) -> dict[str, Tensor]:
    """{layer: (n, out, inner)}; gradients of parameters are left as they were found, None."""
    rows: dict[str, list[Tensor]] = {name: [] for name in layers}
    for sample in data.split(1):
        model.zero_grad()
        loss(sample).backward()
        for name, module in layers.items():
            rows[name].append(gradient_of(module, bias))
    model.zero_grad()
    return {name: torch.stack(found) for name, found in rows.items()}


def assert_autograd_s(
    model: nn.Module, layers: Mapping[str, nn.Module], loss: Loss, data: Tensor, bias: bool = False
) -> None:
    """With and without projections, what is captured is autograd's gradient of each sample."""
    expected = autograd_gradients(model, layers, loss, data, bias)
    random = random_projections(layers, 3, seed=0, bias=bias)
    projections = Projections({name: [p.double() for p in random[name]] for name in layers})
    for chosen in (None, projections):
        with Capture(model, layers, chosen, bias=bias).batch() as batch:
            loss(data).backward()
        assert list(batch.gradients) == list(layers)
        for name, found in batch.gradients.items():
            whole = expected[name]
            if chosen is not None:
                p_i, p_o = chosen[name]
                whole = p_o @ whole @ p_i.T
            torch.testing.assert_close(found, whole)

"""What the gradient of a layer's weight is made of, for each type of layer.

A sample's gradient of a weight is ``G = sum_t e_t a_t^T``: rows ``a_t`` of the layer's input and
``e_t`` of its output's gradient, one for each token or position t. The rule of a layer turns the
tensors that hooks see into these rows, and projects them without forming rows as wide as the
layer where it can: a convolution by P_i is a convolution with fewer channels, a one-hot row times
P_i is a column of P_i.

Rows are (n, groups, t, width): each group of a grouped convolution has rows of its own, all other
layers have one group. G is (n, out, inner). For layers that keep their weight as (inner, out), an
embedding and transformers' ``Conv1D``, it is the transposed gradient of the weight. A bias is one
more input that is always 1, the last of ``inner``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import InputError


class GradientRule(ABC):
    """How one layer's gradient follows from its input and its output's gradient.

    Attributes:
        out, inner: shape of the gradient; ``inner`` counts the bias, where there is one.
        groups: parts of a convolution's channels that do not see each other.
    """

    def __init__(self, out: int, inner: int, *, bias: bool = False, groups: int = 1) -> None:
        self.out, self.inner, self.bias, self.groups = out, inner + bias, bias, groups

    @abstractmethod
    def inputs(self, value: Tensor) -> Tensor:
        """A layer's input -> rows (n, groups, t, inner)."""

    @abstractmethod
    def outputs(self, value: Tensor) -> Tensor:
        """An output's gradient -> rows (n, groups, t, out / groups)."""

    @abstractmethod
    def projected_inputs(self, value: Tensor, matrix: Tensor) -> Tensor:
        """A layer's input, (k, inner) -> rows (n, groups, t, k)."""

    @abstractmethod
    def projected_outputs(self, value: Tensor, matrix: Tensor) -> Tensor:
        """An output's gradient, (k, out) -> rows (n, groups, t, k), P e if summed over groups."""

    def laid_out(self, matrix: Tensor) -> Tensor:
        """P_i as :meth:`projected_inputs` reads it fastest; equal to it."""
        return matrix

    def whole_outputs(self, value: Tensor) -> Tensor:
        """An output's gradient -> rows (n, t, out), all groups side by side."""
        return self.outputs(value).transpose(1, 2).flatten(2)


class LinearRule(GradientRule):
    """A linear map of the last axis, samples first: (n, ..., inner) -> (n, ..., out)."""

    def inputs(self, value: Tensor) -> Tensor:
        rows = _rows(value)
        return functional.pad(rows, (0, 1), value=1.0) if self.bias else rows

    def outputs(self, value: Tensor) -> Tensor:
        return _rows(value)

    def projected_inputs(self, value: Tensor, matrix: Tensor) -> Tensor:
        return functional.linear(_rows(value), *_weight_and_bias(matrix, self.bias))

    def projected_outputs(self, value: Tensor, matrix: Tensor) -> Tensor:
        return functional.linear(_rows(value), matrix)


class EmbeddingRule(GradientRule):
    """A table of ``inner`` vectors ``out`` wide, looked up: rows are one-hot.

    Raises:
        InputError: the table is changed by looking up, or its gradient depends on the batch.
    """

    def __init__(self, module: nn.Embedding) -> None:
        for option in ("max_norm", "scale_grad_by_freq"):
            if getattr(module, option):
                raise InputError(
                    f"{option}={getattr(module, option)} of an embedding: a sample's gradient "
                    "depends on the other samples; allowed: an embedding without it"
                )
        super().__init__(module.embedding_dim, module.num_embeddings)
        self.module = module

    def inputs(self, value: Tensor) -> Tensor:
        kind = self.module.weight.dtype
        rows = functional.one_hot(self._tokens(value), self.inner).to(kind)
        return self._without_padding(rows, value)

    def outputs(self, value: Tensor) -> Tensor:
        return _rows(value)

    def projected_inputs(self, value: Tensor, matrix: Tensor) -> Tensor:
        return self._without_padding(functional.embedding(self._tokens(value), matrix.mT), value)

    def projected_outputs(self, value: Tensor, matrix: Tensor) -> Tensor:
        return functional.linear(_rows(value), matrix)

    def laid_out(self, matrix: Tensor) -> Tensor:
        # Columns, which are looked up, lie together: else every look-up copies the whole matrix.
        return matrix.mT.contiguous().mT

    def _tokens(self, value: Tensor) -> Tensor:
        return value.reshape(value.shape[0], 1, -1)

    def _without_padding(self, rows: Tensor, value: Tensor) -> Tensor:
        """Rows, zero where the token is the padding, whose vector is never trained."""
        padding = self.module.padding_idx
        if padding is None:
            return rows
        return rows.masked_fill((self._tokens(value) == padding).unsqueeze(-1), 0.0)


class ConvolutionRule(GradientRule):
    """A convolution over 1 to 3 axes, with any stride, dilation, groups and kind of padding."""

    def __init__(self, module: nn.Conv1d | nn.Conv2d | nn.Conv3d, bias: bool) -> None:
        inner = module.in_channels // module.groups * math.prod(module.kernel_size)
        super().__init__(module.out_channels, inner, bias=bias, groups=module.groups)
        self.module = module

    def inputs(self, value: Tensor) -> Tensor:
        module, axes = self.module, len(self.module.kernel_size)
        # The margins that the module itself adds, also for padding="same" and other modes.
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        patches = functional.pad(value, module._reversed_padding_repeated_twice, mode=mode)
        shape = zip(module.kernel_size, module.stride, module.dilation, strict=True)
        for axis, (size, stride, dilation) in enumerate(shape, start=2):
            patches = patches.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
        patches = torch.unflatten(patches, 1, (self.groups, -1))
        # (n, groups, channels, *positions, *kernel) -> (n, groups, positions, channels * kernel)
        positions, kernel = range(3, 3 + axes), range(3 + axes, 3 + 2 * axes)
        rows = patches.permute(0, 1, *positions, 2, *kernel).flatten(2 + axes).flatten(2, 1 + axes)
        return functional.pad(rows, (0, 1), value=1.0) if self.bias else rows

    def outputs(self, value: Tensor) -> Tensor:
        return torch.unflatten(value.flatten(2), 1, (self.groups, -1)).mT

    def projected_inputs(self, value: Tensor, matrix: Tensor) -> Tensor:
        module = self.module
        weight, bias = _weight_and_bias(matrix, self.bias)
        channels = module.in_channels // self.groups
        # Every group is seen through the same matrix.
        weight = weight.reshape(-1, channels, *module.kernel_size).repeat(
            self.groups, *(1 for _ in range(1 + len(module.kernel_size)))
        )
        bias = None if bias is None else bias.repeat(self.groups)
        # The module's own convolution: the method applies its stride, padding, mode and dilation.
        return self.outputs(module._conv_forward(value, weight, bias))

    def projected_outputs(self, value: Tensor, matrix: Tensor) -> Tensor:
        # (k, groups * channels) -> one (k, channels, 1) kernel for each group
        kernels = torch.unflatten(matrix, 1, (self.groups, -1)).transpose(0, 1).flatten(0, 1)
        return self.outputs(
            functional.conv1d(value.flatten(2), kernels.unsqueeze(-1), groups=self.groups)
        )


def find_rule(module: nn.Module, bias: bool = False) -> GradientRule:
    """The rule of a layer, with its bias as one more input where it has one and ``bias`` is set.

    Raises:
        InputError: no rule for this type.
    """
    bias = bias and getattr(module, "bias", None) is not None
    if isinstance(module, nn.Linear):
        return LinearRule(module.out_features, module.in_features, bias=bias)
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return ConvolutionRule(module, bias)
    if isinstance(module, nn.Embedding):
        return EmbeddingRule(module)
    if is_transformers_conv1d(type(module)):
        inner, out = module.weight.shape  # type: ignore[union-attr, misc]
        return LinearRule(int(out), int(inner), bias=bias)
    raise InputError(f"layer {type(module).__name__}: no gradient rule; allowed: {ALLOWED}")


def has_rule(kind: type[nn.Module]) -> bool:
    """Whether :func:`find_rule` knows modules of this type."""
    return issubclass(kind, SUPPORTED) or is_transformers_conv1d(kind)


def is_transformers_conv1d(kind: type[nn.Module]) -> bool:
    """Whether it is GPT-2's linear map of that name; told by name, transformers loads slowly."""
    return any(
        parent.__name__ == "Conv1D" and parent.__module__.startswith("transformers.")
        for parent in kind.__mro__
    )


#: Types of torch with a rule.
SUPPORTED: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.Embedding,
)
ALLOWED = ", ".join(kind.__name__ for kind in SUPPORTED) + " and transformers' Conv1D"


def add_gradients(total: Tensor, inputs: Tensor, outputs: Tensor, *, first: bool = False) -> None:
    """Add ``sum_t e_t a_t^T`` to ``total`` (n, out, inner), without a copy of that size.

    Args:
        total: what is added to, in the type of the sum over tokens.
        inputs: rows (n, groups, t, inner).
        outputs: rows (n, groups, t, out / groups).
        first: whether ``total`` holds nothing yet and is written over.
    """
    inputs, outputs = inputs.to(total.dtype), outputs.to(total.dtype)
    if inputs.shape[1] > 1:
        _put(total, (outputs.mT @ inputs).flatten(1, 2), first)
    elif inputs.shape[2] > 1:
        total.baddbmm_(outputs[:, 0].mT, inputs[:, 0], beta=0 if first else 1)
    # One token: an outer product, which matrix products are slow at.
    elif first:
        torch.mul(outputs[:, 0].mT, inputs[:, 0], out=total)
    else:
        total.addcmul_(outputs[:, 0].mT, inputs[:, 0])


def add_projected_gradients(
    total: Tensor, inputs: Tensor, outputs: Tensor, *, first: bool = False
) -> None:
    """Add ``sum_t (P_o e_t) (P_i a_t)^T`` to ``total`` (n, k_o, k_i).

    Args:
        total, first: as in :func:`add_gradients`.
        inputs: projected rows (n, groups, t, k_i).
        outputs: projected rows (n, groups, t, k_o).
    """
    # Both sides are as wide in every group: groups add up as tokens do.
    inputs, outputs = (rows.flatten(1, 2).unsqueeze(1) for rows in (inputs, outputs))
    add_gradients(total, inputs, outputs, first=first)


def add_projecting_late(
    total: Tensor, inputs: Tensor, outputs: Tensor, matrix: Tensor, *, first: bool = False
) -> None:
    """Add ``P_o (sum_t e_t (P_i a_t)^T)`` to ``total`` (n, k_o, k_i).

    Args:
        total, inputs, first: as in :func:`add_projected_gradients`.
        outputs: whole rows (n, groups, t, out / groups).
        matrix: P_o (k_o, out).
    """
    inputs, outputs = inputs.to(total.dtype), outputs.to(total.dtype)
    _put(total, matrix.to(total.dtype) @ (outputs.mT @ inputs).flatten(1, 2), first)


def is_better_late(rule: GradientRule, inputs: Tensor, k_out: int) -> bool:
    """Whether to project after the sum over tokens takes fewer operations: for long sequences.

    Args:
        rule: of the layer.
        inputs: projected rows (n, groups, t, k_i).
        k_out: rows of P_o.
    """
    _, groups, tokens, k_in = inputs.shape
    early = tokens * k_out * (rule.out + groups * k_in)
    late = rule.out * k_in * (tokens + k_out)
    return late < early


def _rows(value: Tensor) -> Tensor:
    """(n, ..., width) -> (n, 1, t, width)."""
    if value.dim() < 2:
        raise InputError(
            f"a layer saw a tensor of shape {tuple(value.shape)}; allowed: (n, ..., width)"
        )
    return value.reshape(value.shape[0], 1, -1, value.shape[-1])


def _put(total: Tensor, found: Tensor, first: bool) -> None:
    total.copy_(found) if first else total.add_(found)


def _weight_and_bias(matrix: Tensor, bias: bool) -> tuple[Tensor, Tensor | None]:
    """A projection of inputs -> what multiplies the input and what the constant 1."""
    return (matrix[:, :-1], matrix[:, -1]) if bias else (matrix, None)

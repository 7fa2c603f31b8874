"""Batches on the way to a device: every tensor arrives, and every container stays what it was."""

from __future__ import annotations

from collections import OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from transformers import BatchEncoding
from transformers.modeling_outputs import BaseModelOutput

from common.batches import to_device

META = torch.device("meta")


class Pair(NamedTuple):
    """A sample with its label."""

    x: torch.Tensor
    y: torch.Tensor


@dataclass(frozen=True, slots=True)
class Sentences:
    """Token ids, of which there is always one more than was given: no second time."""

    ids: torch.Tensor
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", torch.cat([self.ids, self.ids[:1]]))


class Named(dict[str, Any]):
    """A mapping that holds more than its items, and is not made from a mapping."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


class Own:
    """A batch class that moves itself, in place, and knows no asynchronous copies."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def to(self, device: torch.device) -> Own:
        self.x = self.x.to(device)
        return self


def tensor() -> torch.Tensor:
    return torch.arange(3.0)


def named() -> Named:
    batch = Named("pictures")
    batch["x"] = tensor()
    return batch


def listed() -> defaultdict[str, list[torch.Tensor]]:
    batch: defaultdict[str, list[torch.Tensor]] = defaultdict(list)
    batch["x"].append(tensor())
    return batch


#: What holds tensors -> how to come by all of them.
CONTAINERS: dict[str, tuple[Callable[[], Any], Callable[[Any], list[torch.Tensor]]]] = {
    "tensor": (tensor, lambda b: [b]),
    "list": (lambda: [tensor(), tensor()], list),
    "tuple": (lambda: (tensor(), tensor()), list),
    "deque": (lambda: deque([tensor()], maxlen=4), list),
    "user list": (lambda: UserList([tensor()]), list),
    "named tuple": (lambda: Pair(tensor(), tensor()), list),
    "torch's own tuple": (lambda: torch.max(torch.eye(3), dim=0), list),
    "packed sequence": (
        lambda: pack_sequence([tensor(), tensor()[:2]]),
        lambda b: [b.data, b.sorted_indices] if b.sorted_indices is not None else [b.data],
    ),
    "dict": (lambda: {"x": tensor()}, lambda b: list(b.values())),
    "ordered dict": (lambda: OrderedDict(b=tensor(), a=tensor()), lambda b: list(b.values())),
    "default dict": (listed, lambda b: b["x"]),
    "dict subclass": (named, lambda b: list(b.values())),
    "user dict": (lambda: UserDict(x=tensor()), lambda b: list(b.values())),
    "read-only mapping": (lambda: MappingProxyType({"x": tensor()}), lambda b: [b["x"]]),
    "encoding": (
        lambda: BatchEncoding({"input_ids": tensor()}),
        lambda b: [b.input_ids, b["input_ids"]],
    ),
    "model output": (
        lambda: BaseModelOutput(last_hidden_state=tensor(), hidden_states=(tensor(),)),  # type: ignore[arg-type]
        lambda b: [b.last_hidden_state, b["last_hidden_state"], *b.hidden_states],
    ),
    "dataclass": (lambda: Sentences(tensor(), ["a"]), lambda b: [b.ids]),
    "own class": (lambda: Own(tensor()), lambda b: [b.x]),
    "nested": (
        lambda: [{"a": (Pair(tensor(), tensor()), Sentences(tensor()))}],
        lambda b: [*b[0]["a"][0], b[0]["a"][1].ids],
    ),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_keeps_its_type_and_all_its_tensors_arrive(name: str) -> None:
    make, tensors = CONTAINERS[name]
    batch = make()
    moved = to_device(batch, META)
    assert type(moved) is type(batch)
    assert {part.device.type for part in tensors(moved)} == {"meta"}
    assert {part.device.type for part in tensors(batch)} == {"cpu"}, "the loader's own was moved"
    assert [part.shape for part in tensors(moved)] == [part.shape for part in tensors(batch)]


@pytest.mark.parametrize("name", CONTAINERS)
def test_values_are_those_of_the_batch(name: str) -> None:
    make, tensors = CONTAINERS[name]
    batch = make()
    for mine, its in zip(
        tensors(to_device(batch, torch.device("cpu"))), tensors(batch), strict=True
    ):
        assert torch.equal(mine, its)


def test_what_is_no_tensor_stays() -> None:
    batch = {"name": "a", "none": None, "sizes": torch.Size([2, 3]), "count": 4, "kind": Own}
    assert to_device(batch, META) == batch
    assert to_device(None, META) is None


def test_what_a_container_holds_besides_its_items_stays() -> None:
    assert to_device(named(), META).name == "pictures"
    assert to_device(listed(), META).default_factory is list
    assert to_device(deque([tensor()], maxlen=4), META).maxlen == 4
    assert list(to_device(OrderedDict(b=tensor(), a=tensor()), META)) == ["b", "a"]
    assert to_device(Sentences(tensor(), ["a"]), META).names == ["a"]


def test_a_packed_sequence_keeps_its_lengths_on_the_cpu() -> None:
    packed: PackedSequence = to_device(pack_sequence([tensor(), tensor()[:2]]), META)
    assert packed.batch_sizes.device.type == "cpu"
    assert packed.batch_sizes.tolist() == [2, 2, 1]

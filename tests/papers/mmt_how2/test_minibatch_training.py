"""Every sample is seen once an epoch, in an order that the seed alone decides."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from common.errors import InputError
from papers.mmt_how2.correction.minibatch_training import Minibatches, epochs, train_network


def test_an_epoch_is_a_permutation_that_the_seed_decides() -> None:
    schedule = Minibatches(epochs=3, batch_size=4)
    seen = [torch.cat(list(batches)).tolist() for batches in epochs(10, schedule, seed=1)]
    assert all(sorted(order) == list(range(10)) for order in seen)
    assert seen[0] != seen[1]
    again = [torch.cat(list(batches)).tolist() for batches in epochs(10, schedule, seed=1)]
    assert again == seen


def line(schedule: Minibatches) -> tuple[nn.Linear, list[float]]:
    """A line through eight points that lie on one."""
    torch.manual_seed(0)
    network, x = nn.Linear(1, 1), torch.linspace(-1, 1, 8).unsqueeze(1)

    def loss(places: Tensor) -> Tensor:
        return (network(x[places]) - 3 * x[places] - 1).pow(2).mean()

    return network, train_network(network, loss, len(x), schedule, seed=0)


def test_a_rate_that_falls_to_zero_ends_at_the_minimum() -> None:
    schedule = Minibatches(epochs=200, batch_size=3, learning_rate=0.1, decay="linear")
    network, history = line(schedule)
    assert [network.weight.item(), network.bias.item()] == pytest.approx([3, 1], abs=1e-3)
    assert history[-1] < 1e-5 < history[0]


def test_a_loss_that_is_no_number_stops_the_training() -> None:
    with pytest.raises(InputError, match="learning_rate 1e\\+30: the loss is"):
        line(Minibatches(epochs=3, learning_rate=1e30))

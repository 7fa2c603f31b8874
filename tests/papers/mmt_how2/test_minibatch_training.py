"""Every sample is seen once an epoch, in an order that the seed alone decides."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

from common.errors import InputError
from papers.mmt_how2.correction.minibatch_training import (
    EagerAdam,
    Minibatches,
    epochs,
    train_network,
)
from papers.mmt_how2.methods.run_states import RunStates
from tests.papers.mmt_how2.runs import opened, settings_of


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


def test_adam_takes_the_steps_of_torchs() -> None:
    found = []
    for kind in (Adam, EagerAdam):
        torch.manual_seed(1)
        network = nn.Linear(3, 2)
        optimizer = kind(network.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            network(torch.randn(4, 3)).square().sum().backward()
            optimizer.step()
        found.append(network.weight.detach().clone())
    assert torch.equal(*found)


@pytest.mark.parametrize("updates", [2, 7, 12])
def test_a_training_that_was_killed_ends_with_the_same_bits(
    updates: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a network with dropout, killed in its first, third and last epoch of three updates."""
    monkeypatch.setattr("papers.mmt_how2.methods.run_states.SAVE_EVERY_S", 0)
    schedule = Minibatches(epochs=5, batch_size=3, decay="linear")
    x = torch.linspace(-1, 1, 8).unsqueeze(1)
    run = opened("splits", "corpus", "sizes", settings_of("splits", "corpus", "sizes"), tmp_path)

    def trained(states: RunStates | None, most: int) -> tuple[Tensor, list[float]]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        left = iter(range(most))

        def loss(places: Tensor) -> Tensor:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return (network(x[places]) - 3 * x[places]).pow(2).mean()

        history = train_network(network, loss, len(x), schedule, seed=0, states=states)
        return nn.utils.parameters_to_vector(network.parameters()).detach(), history

    with run:
        whole, losses = trained(None, 15)
        with pytest.raises(KeyboardInterrupt):
            trained(RunStates(run, "line"), updates)
        # As many updates are left as the epochs that were not whole have.
        again, history = trained(RunStates(run, "line"), 15 - updates // 3 * 3)
    assert torch.equal(whole, again)
    assert losses == history


def test_a_state_is_kept_where_the_last_is_old_and_belongs_to_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of("splits", "corpus", "sizes")
    with opened("splits", "corpus", "sizes", settings, tmp_path) as run:
        states = RunStates(run, "line")
        states.write(1, {"x": 1})
        assert states.read() is None
        monkeypatch.setattr("papers.mmt_how2.methods.run_states.SAVE_EVERY_S", 0)
        states.write(2, {"x": 2})
        assert states.read() == {"x": 2}
        assert RunStates(run, "another").read() is None
    other = settings.model_copy(update={"text": settings.text.model_copy(update={"cue": 0.5})})
    with (
        opened("splits", "corpus", "sizes", other, tmp_path) as run,
        pytest.raises(InputError, match="belongs to a run with other settings"),
    ):
        RunStates(run, "line").read()

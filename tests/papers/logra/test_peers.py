"""Scores of other libraries on the same classifier: EKFAC's are kronfluence's, number by number."""

from __future__ import annotations

import io
import logging
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from papers.logra.benchmarks.peers import Kronfluence, peers, silent
from papers.logra.benchmarks.ratios import Ours
from papers.logra.methods.attribution import InfluenceSettings, LoggedTrainingSet
from papers.logra.tasks.samples import Samples


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Samples, Samples]:
    """A classifier of noisy points, its training set and queries."""
    torch.manual_seed(0)
    centres = 2 * torch.randn(4, 6)
    labels = torch.randint(4, (90,))
    points = centres[labels] + torch.randn(90, 6)
    model = nn.Sequential(nn.Linear(6, 12, bias=False), nn.ReLU(), nn.Linear(12, 4, bias=False))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        functional.cross_entropy(model(points[:60]), labels[:60]).backward()
        optimizer.step()
    return model, Samples(points[:60], labels[:60]), Samples(points[60:], labels[60:])


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


@pytest.mark.skipif(find_spec("kronfluence") is None, reason="needs kronfluence")
def test_ekfac_is_kronfluences(trained: tuple[nn.Module, Samples, Samples], tmp_path: Path) -> None:
    model, train, queries = trained
    with silent():
        peer = Kronfluence(model, tmp_path, rank=4, batch=20)
        peer.log(train)
        theirs = peer.score(queries)
    settings = InfluenceSettings(projection="none", hessian="ekfac")
    ours = LoggedTrainingSet(settings, model, train, 0, tmp_path / "ours").scores(queries)
    torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-3 * float(theirs.abs().max()))


@pytest.mark.parametrize("name", sorted({"ours", *peers()}))
def test_every_library_thinks_much_the_same(
    name: str, trained: tuple[nn.Module, Samples, Samples], tmp_path: Path
) -> None:
    model, train, queries = trained
    make = Ours if name == "ours" else peers()[name]
    # dattri compiles its projections, a minute that this test does not need.
    with silent(), torch.compiler.set_stance("force_eager"):
        peer = make(model, tmp_path, 6, 20)
        peer.log(train)
        found = peer.score(queries)
    assert found.shape == (30, 60)
    settings = InfluenceSettings(projection="none", hessian="ekfac")
    whole = LoggedTrainingSet(settings, model, train, 0, tmp_path / "ours").scores(queries)
    # TRAK scores margins, not losses, through a projection that knows no layers. From 0.10, others
    # from 0.52, with points and models of seeds 0 to 4.
    assert correlation(found.float(), whole) > (0.05 if name == "traker" else 0.4)


@pytest.mark.parametrize("name", sorted(peers().keys() - {"kronfluence"}))
def test_what_a_library_draws_follows_from_the_seed(
    name: str, trained: tuple[nn.Module, Samples, Samples], tmp_path: Path
) -> None:
    model, train, queries = trained
    found = []
    for place, seed in enumerate((0, 0, 1)):
        folder = tmp_path / str(place)
        folder.mkdir()
        with silent(), torch.compiler.set_stance("force_eager"):
            peer = peers()[name](model, folder, 3, 20, seed)
            peer.log(train)
            found.append(peer.score(queries).float())
    torch.testing.assert_close(found[0], found[1])
    assert correlation(found[0], found[2]) < 0.99


def test_nothing_is_heard_of_a_library_and_all_of_what_follows() -> None:
    said = io.StringIO()
    log, handler = logging.getLogger("a library"), logging.StreamHandler(said)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with silent():
            log.warning("within")
        log.info("after")
        with pytest.raises(ValueError, match="broken"), silent():
            raise ValueError("broken")
        log.info("and after an error")
    finally:
        log.removeHandler(handler)
    assert said.getvalue().split("\n") == ["after", "and after an error", ""]

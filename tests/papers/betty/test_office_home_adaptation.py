"""Facts of domain adaptation on pictures: crops, networks, optimisers, weights, resume."""

from __future__ import annotations

from collections.abc import Mapping
from multiprocessing import active_children
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.data.office_home import office_home
from common.errors import InputError
from common.runs.cli import guarded, paper_main
from common.runs.files import file_sha256
from common.tasks.networks import conv_net
from common.training import CoreSettings
from papers.betty.experiments.domain_adaptation import body, head, program, squared_distance
from papers.betty.tasks import imagenet_resnet
from papers.betty.tasks.domains import load_domains, share_of_each_class
from papers.betty.tasks.image_batches import MEAN, SPREAD, Crops, normalised
from papers.betty.tasks.imagenet_resnet import imagenet_weights, resnet18
from tests.common.data.example_office_home import example_office_home
from tests.papers.betty.runs import (
    FOLDER,
    metrics_after_a_stop,
    metrics_of,
    opened,
    settings_of,
)

NAME = "domain_adaptation"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data root with six pictures of each of two classes in each domain."""
    return example_office_home(tmp_path_factory.mktemp("data"), 6).parent


def small(root: Path, **changes: Any) -> Any:
    """Settings of three levels at paper scale, but for sizes and ImageNet's weights."""
    sizes = {"resize": 36, "crop": 32, "batch_size": 4, "iterations": 4, "validate_every": 2}
    core = {"device": "cpu", "num_workers": 0, "save_every": 1}
    given = {"data_root": str(root), "pretrained": False, "core": core, **sizes, **changes}
    return settings_of(NAME, "rwt", "paper", "home_cl_ar", **given)


def crops_of(root: Path, augment: bool) -> Crops:
    """All pictures of Art."""
    return Crops(office_home(root)["Art"], np.arange(12), 36, 32, augment)


def drawn(crops: Crops, steps: int, workers: int = 0, taken: int = 0) -> list[tuple[Tensor, ...]]:
    """Batches ``taken`` to ``steps`` of four."""
    settings = CoreSettings(global_batch_size=4, num_workers=workers)
    batches = crops.batches(4, steps, 1, settings, CPU)
    batches.load_state_dict({"taken": taken})
    found = list(batches)
    assert batches.state_dict() == {"taken": steps}
    return found


def test_each_class_is_split_and_the_source_takes_the_same_share(
    root: Path, tmp_path: Path
) -> None:
    settings = small(root, train_share=2 / 3)
    sets = []
    for seed in (0, 1):
        with opened(NAME, settings, tmp_path / str(seed), seed) as run:
            sets.append(load_domains(settings, run))
    data, other = sets
    assert isinstance(data.source, Crops)
    assert isinstance(data.target, Crops)
    assert isinstance(other.target, Crops)
    assert data.source.domain.folder.name == "Clipart"
    assert data.target.domain.folder.name == "Art"
    assert (len(data.source), len(data.target)) == (8, 8)
    assert np.bincount(data.again.y).tolist() == [4, 4]
    assert np.bincount(data.test.y).tolist() == [2, 2]
    # Pictures are single-coloured, no two alike: none to train on is tested.
    colours = [{tuple(c) for c in part.x[:, :, 0, 0].tolist()} for part in (data.again, data.test)]
    assert not colours[0] & colours[1]
    assert data.target.rows.tolist() == other.target.rows.tolist()
    assert torch.equal(data.test.x, other.test.x)


def test_both_parts_of_a_split_have_each_class() -> None:
    labels = np.repeat([0, 1, 2], [2, 10, 7])
    for share in (0.01, 0.5, 0.99):
        chosen, others = share_of_each_class(labels, share)
        assert sorted([*chosen, *others]) == list(range(19))
        assert set(labels[chosen]) == set(labels[others]) == {0, 1, 2}
    with pytest.raises(InputError, match="class 3 has one sample"):
        share_of_each_class(np.array([2, 2, 3]), 0.5)


def test_crops_are_normalised_as_for_imagenet(root: Path) -> None:
    split = crops_of(root, augment=False).decoded(0)
    assert split.x.shape == (12, 3, 32, 32)
    assert split.x.dtype == torch.uint8
    assert split.y.tolist() == [0] * 6 + [1] * 6
    by_hand = (split.x.float() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(
        SPREAD
    ).view(3, 1, 1)
    assert torch.allclose(normalised(split.x), by_hand, atol=1e-6)


def test_an_epoch_has_every_picture_once_and_the_next_crops_it_anew(tmp_path: Path) -> None:
    from PIL import Image

    folder = example_office_home(tmp_path, 6)
    ramp = np.arange(48 * 40 * 3, dtype=np.uint32).reshape(40, 48, 3)
    for number, path in enumerate(sorted((folder / "Art").rglob("*.jpg"))):
        Image.fromarray(((ramp * (number + 3)) % 251).astype(np.uint8)).save(path)
    batches = drawn(crops_of(tmp_path, augment=True), 6, workers=1)
    for epoch in (batches[:3], batches[3:]):
        labels = torch.cat([y for _, y in epoch])
        assert np.bincount(labels).tolist() == [6, 6]
    flat = torch.cat([x for x, _ in batches]).flatten(1)
    assert len(flat.unique(dim=0)) == 24


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_go_on_where_they_were_saved(root: Path, workers: int) -> None:
    crops = crops_of(root, augment=True)
    whole, rest = drawn(crops, 5, workers), drawn(crops, 5, workers, taken=3)
    assert len(rest) == 2
    for (x, y), (again_x, again_y) in zip(whole[3:], rest, strict=True):
        assert torch.equal(y, again_y)
        assert torch.equal(x, again_x)  # single-coloured, so crops do not matter


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_one_line_also_in_a_worker(tmp_path: Path, workers: int) -> None:
    path = example_office_home(tmp_path, 6) / "Art" / "Mug" / "00003.jpg"
    path.write_bytes(b"no picture")
    for draw in (lambda c: drawn(c, 3, workers), lambda c: c.decoded(workers)):
        with pytest.raises(InputError, match=r"^[^\n]*Mug/00003.jpg: cannot be read[^\n]*$"):
            draw(crops_of(tmp_path, augment=True))
        assert active_children() == []


def test_the_three_levels_train_resnets_with_two_learning_rates(root: Path, tmp_path: Path) -> None:
    settings = small(root)
    with opened(NAME, settings, tmp_path) as run:
        engine = program(settings, load_domains(settings, run), 0)
    engine.train()
    outputs = {"pretrain": 2, "finetune": 2, "reweight": 1}
    before = {}
    for name, count in outputs.items():
        problem = engine.problem(name)
        last = problem.module.network.fc if name == "reweight" else problem.module.fc
        assert last.weight.shape == (count, 512)
        slow, fast = problem.optimizer.param_groups
        assert (slow["lr"], fast["lr"]) == (1e-4, 1e-3)
        assert slow["weight_decay"] == fast["weight_decay"] == 5e-4
        assert {id(p) for p in fast["params"]} == {id(last.weight), id(last.bias)}
        assert len(slow["params"]) == len(problem.parameters()) - 2
        assert problem.scheduler.step_size == 400
        before[name] = [p.detach().clone() for p in problem.parameters()]
    engine.train_step()
    for name, old in before.items():
        assert engine.problem(name).count == 1
        assert all(
            not torch.equal(a, b)
            for a, b in zip(engine.problem(name).parameters(), old, strict=True)
        ), name


def test_the_proximal_term_leaves_out_the_head(root: Path, tmp_path: Path) -> None:
    network, other = resnet18(3), resnet18(3)
    other.load_state_dict(network.state_dict())
    names = {id(p): name for name, p in network.named_parameters()}
    assert [names[id(p)] for p in head(network)] == ["fc.weight", "fc.bias"]
    assert len(body(network)) + 2 == len(names)
    with torch.no_grad():
        head(other)[0].add_(1)
        assert squared_distance(network, other) == 0
        body(other)[0].add_(1)
        assert squared_distance(network, other).item() == pytest.approx(64 * 3 * 7 * 7)


def test_all_layers_but_the_last_are_those_given() -> None:
    given = imagenet_resnet.models.resnet18().state_dict()
    network = resnet18(5, given)
    found = network.state_dict()
    for name in set(found) - {"fc.weight", "fc.bias"}:
        assert torch.equal(found[name], given[name])
    assert found["fc.bias"].tolist() == [0] * 5
    assert 0 < found["fc.weight"].abs().max() <= 0.1 * (6 / (512 + 5)) ** 0.5


def tiny(outputs: int, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """A network in the place of ResNet-18."""
    assert weights is None
    return conv_net(3, 4, 8, classes=outputs)


def test_a_stopped_run_ends_as_one_that_was_not(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imagenet_resnet, "resnet18", tiny)
    settings = small(root)
    whole = metrics_of(NAME, settings, tmp_path / "whole")
    assert metrics_after_a_stop(NAME, settings, tmp_path / "cut", monkeypatch) == whole
    assert whole["best_accuracy_pct"] >= whole["accuracy_pct"]
    assert whole["memory_bytes"] > 0


def offline(*_arguments: Any, **_options: Any) -> None:
    raise URLError("no route to host")


def test_absent_weights_are_one_line_and_status_2(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    changes = [f"data_root={root}", "core.device=cpu"]
    arguments = [NAME, "--case", "home_cl_ar", "--arm", "baseline", "--scale", "paper"]
    arguments += [part for change in changes for part in ("--set", change)]
    arguments += ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    with pytest.raises(SystemExit) as ended:
        guarded(lambda: paper_main(FOLDER, arguments))
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    expected = tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    assert f"error: {expected}: " in line
    assert "TORCH_HOME" in line
    assert "no route to host" in line


class _Published:
    """Weights that are published under a URL."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get_state_dict(self, **options: Any) -> Any:
        """As torchvision's."""
        return torch.hub.load_state_dict_from_url(self.url, **options)


def test_weights_that_lie_there_are_checked_and_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"w": torch.arange(3.0)}, folder / "net.pth")
    checksum = file_sha256(folder / "net.pth")
    path = (folder / "net.pth").rename(folder / f"net-{checksum[:8]}.pth")
    monkeypatch.setattr(
        imagenet_resnet, "RESNET_WEIGHTS", _Published(f"https://example.org/models/{path.name}")
    )
    weights, identity = imagenet_weights()
    assert weights["w"].tolist() == [0, 1, 2]
    assert identity.sha256 == {path.name: checksum}
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=f"{path.name}: sha256 is .* its name says {checksum[:8]}"):
        imagenet_weights()

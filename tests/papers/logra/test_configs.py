"""A configuration is the published keys, and nothing that is not one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from common.errors import InputError
from papers.logra.session.configs import Config, LoggingConfig, LoRAConfig, read_config


def test_keys_of_logix_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "root_dir: files/logix\nlogging:\n  flush_threshold: 50000000\n  num_workers: 2\n"
        "  cpu_offload: true\n  log_dtype: float16\nlora:\n  init: pca\n  rank: 8\n"
        "  parameter_sharing: false\n  parameter_sharing_groups: null\n"
    )
    found = read_config(path)
    assert found == Config(
        root_dir=Path("files/logix"),
        logging=LoggingConfig(
            flush_threshold=5e7, num_workers=2, cpu_offload=True, log_dtype="float16"
        ),
        lora=LoRAConfig(init="pca", rank=8),
    )
    path.write_text(found.to_yaml())
    assert read_config(path) == found
    assert (found.logging.stored, found.logging.statistics_device) == ("float16", "cpu")


def test_only_the_default_file_may_be_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_config() == read_config("./config.yaml") == Config()
    with pytest.raises(InputError, match=r"other.yaml: not a configuration \(.*No such file"):
        read_config("other.yaml")
    Path("config.yaml").write_text("lora: {rank: 3}\n")
    assert read_config().lora.rank == 3
    Path("config.yaml").write_text("")
    assert read_config() == Config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora: {rnak: 3}", r"unknown key 'lora.rnak' .*allowed: init, .*rank"),
        ("lora: {rank: 0}", "key 'lora.rank': .*greater than or equal to 1, got 0"),
        ("lora: {init: svd}", "key 'lora.init'.*'random', 'orthonormal' or 'pca', got 'svd'"),
        ("logging: {log_dtype: float8}", "key 'logging.log_dtype"),
        ("influence: {damping: 1}", "unknown key 'influence'"),
        ("[1]", "top level"),
        ("a: [", "not a configuration"),
    ],
)
def test_other_keys_and_values_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as found:
        read_config(path)
    assert "\n" not in str(found.value)


def test_types_of_logs() -> None:
    stored = {name: LoggingConfig(log_dtype=name) for name in ("none", "float64", "bfloat16")}  # type: ignore[arg-type]
    assert [config.stored for config in stored.values()] == ["float32", "float64", "bfloat16"]
    assert [config.computed for config in stored.values()] == [None, torch.float64, None]

"""fairseq's configuration is the one that fairseq itself would make."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from papers.mmt_how2.translation import configuration
from papers.mmt_how2.translation.fairseq_start import old_calls, start_fairseq
from papers.mmt_how2.translation.training_settings import Schedule, TranslationModel


def plain(config: Any) -> dict[str, Any]:
    """A configuration as dictionaries, in its order, with what a model of the old kind is given."""
    from omegaconf import OmegaConf

    values = {name: config._get_node(name) for name in config if name != "model"}
    parts = {
        name: OmegaConf.to_container(OmegaConf.create({name: values[name]})) for name in values
    }
    return parts | {"model": vars(config._get_node("model")._value())}


@pytest.mark.parametrize(
    ("model", "schedule"),
    [
        ({}, {}),
        ({"fusion": "output"}, {"decay": "inverse_sqrt", "label_smoothing": 0.1}),
        ({"regularizer_gamma": 0.5}, {"decay": "fixed", "weight_decay": 1e-3, "gpu": True}),
        (
            {
                "architecture": "transformer",
                "options": {"encoder_layers": 2, "adam_betas": "(0.9, 0.98)"},
            },
            {"batch_size": None, "max_tokens": 4096, "fp16": True, "gpu": True},
        ),
    ],
)
def test_it_is_what_fairseq_makes(
    model: dict[str, Any], schedule: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    start_fairseq()
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    given: list[Namespace] = []
    compose = configuration.compose
    monkeypatch.setattr(
        configuration, "compose", lambda given_: given.append(given_) or compose(given_)
    )
    settings = {"epochs": 2, "batch_size": 4, "learning_rate": 0.01} | schedule
    made = configuration.configuration(
        Path("data"),
        Path("work"),
        TranslationModel(**model),
        Schedule(**settings),
        1,
        Path("visual"),
    )
    with old_calls():
        wanted = convert_namespace_to_omegaconf(given[0])
    assert repr(plain(made)) == repr(plain(wanted))
    assert made._metadata.flags == wanted._metadata.flags


def test_parts_of_the_old_kind_are_left_to_fairseq(monkeypatch: pytest.MonkeyPatch) -> None:
    start_fairseq()
    import fairseq.dataclass.utils

    called: list[Namespace] = []
    monkeypatch.setattr(
        fairseq.dataclass.utils,
        "convert_namespace_to_omegaconf",
        lambda given: called.append(given),
    )
    model = TranslationModel(options={"optimizer": "adagrad"})
    schedule = Schedule(epochs=1, batch_size=4)
    configuration.configuration(Path("data"), Path("work"), model, schedule, 1, None)
    assert called[0].optimizer == "adagrad"

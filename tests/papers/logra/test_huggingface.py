"""The Hugging Face Trainer: what it logs is each sequence's own loss, summed; it still trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
)

from common.errors import InputError
from papers.logra.huggingface import LogIXArguments, patch_trainer
from papers.logra.trainers.loss_reduction import LossReduction
from tests.papers.logra.killed_processes import files

IGNORED = -100
torch.set_default_dtype(torch.float32)


def language_model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=2,
        n_head=2,
        n_embd=16,
        vocab_size=31,
        n_positions=12,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config)


def sequences(count: int, seed: int) -> list[dict[str, Tensor]]:
    """Sequences of 8 tokens whose first three are not to be predicted."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for tokens in torch.randint(1, 31, (count, 8), generator=draw):
        labels = tokens.clone()
        labels[:3] = IGNORED
        rows.append({"input_ids": tokens, "labels": labels, "attention_mask": torch.ones(8).long()})
    return rows


def trainer_of(model: Any, folder: Path, data: list[dict[str, Tensor]], **options: Any) -> Any:
    (folder / "config.yaml").write_text(
        f"root_dir: {folder}\nlora: {{rank: 4}}\nlogging: {{checkpoint_seconds: 0}}\n"
    )
    arguments = LogIXArguments(project="log", config=folder / "config.yaml", **options)
    training = TrainingArguments(
        output_dir=str(folder / "trainer"),
        use_cpu=True,
        per_device_eval_batch_size=3,
        per_device_train_batch_size=4,
        num_train_epochs=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    return patch_trainer(Trainer)(arguments, model=model, args=training, train_dataset=data)


def loss_of_one(model: Any, row: dict[str, Tensor]) -> Tensor:
    """Summed over the tokens that are predicted."""
    logits = model(row["input_ids"][None]).logits[0, :-1]
    losses = torch.nn.functional.cross_entropy(
        logits, row["labels"][1:], reduction="sum", ignore_index=IGNORED
    )
    return losses


def test_stored_gradients_are_those_of_each_sequences_summed_loss(tmp_path: Path) -> None:
    model, data = language_model(), sequences(7, seed=1)
    trainer = trainer_of(model, tmp_path, data, name_filter=["mlp"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer.extract_log()
    dataset = trainer.logix.build_log_dataset()
    assert len(dataset) == 7
    model.eval()
    names = [block.name for block in trainer.logix.layout.blocks]
    weights = {name: model.get_submodule(name).weight for name in names}
    for place, row in enumerate(data):
        grads = torch.autograd.grad(loss_of_one(model, row), list(weights.values()))
        _, stored = dataset[place]
        for (name, _), grad in zip(weights.items(), grads, strict=True):
            # GPT-2 keeps its weights the other way round than a linear layer.
            torch.testing.assert_close(stored[name]["grad"], grad.T, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("hessian", ["raw", "kfac", "ekfac", "none"])
@pytest.mark.parametrize("lora", ["none", "random", "pca"])
def test_defect_19_a_sequence_is_its_own_best_explanation(
    tmp_path: Path, hessian: str, lora: str
) -> None:
    """Upstream dropped self-influences, had no way to PCA, and scored EKFAC's queries twice."""
    data = sequences(9, seed=2)
    trainer = trainer_of(
        language_model(), tmp_path, data, name_filter=["mlp"], hessian=hessian, lora=lora
    )
    trainer.extract_log()
    assert lora == "none" or trainer.logix.get_lora_config().init == lora
    result = trainer.influence(data[:4])
    assert result["influence"].shape == (4, 9)
    assert result["src_ids"] == result["tgt_ids"][:4]
    own = trainer.self_influence(data[:4])["influence"]
    torch.testing.assert_close(result["influence"][:, :4].diagonal(), own, rtol=1e-3, atol=1e-5)
    assert (own > 0).all()
    # Nothing that is asked for is logged or counted.
    assert len(trainer.logix.build_log_dataset()) == 9
    torch.testing.assert_close(trainer.influence(data[:4])["influence"], result["influence"])


def test_batches_of_other_sizes_give_the_same_log(tmp_path: Path) -> None:
    data, rows = sequences(7, seed=3), []
    for size in (1, 7):
        folder = tmp_path / str(size)
        folder.mkdir()
        trainer = trainer_of(language_model(), folder, data, lora="random")
        trainer.args.per_device_eval_batch_size = size
        trainer.extract_log()
        stored = trainer.logix.build_log_dataset(flatten=True)
        rows.append(torch.stack([stored[place][1] for place in range(len(stored))]))
    torch.testing.assert_close(rows[0], rows[1], rtol=1e-4, atol=1e-5)


def test_a_classifiers_mean_is_over_samples(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=31,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    model = BertForSequenceClassification(config)
    tokens = torch.randint(1, 31, (5, 6))
    data = [{"input_ids": row, "labels": torch.tensor(k % 2)} for k, row in enumerate(tokens)]
    trainer = trainer_of(model, tmp_path, data, name_filter=["classifier"])
    trainer.extract_log()
    dataset = trainer.logix.build_log_dataset()
    model.eval()
    for place, row in enumerate(data):
        loss = model(row["input_ids"][None], labels=row["labels"][None]).loss
        (grad,) = torch.autograd.grad(loss, [model.classifier.weight])
        torch.testing.assert_close(
            dataset[place][1]["classifier"]["grad"], grad, rtol=1e-4, atol=1e-6
        )


def test_the_trainer_still_trains_and_its_mode_is_put_back(tmp_path: Path) -> None:
    model = language_model()
    trainer = trainer_of(model, tmp_path, sequences(8, seed=4), lora="random")
    model.train()
    trainer.extract_log()
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    before = model.transformer.wte.weight.detach().clone()
    trainer.train()
    assert not torch.equal(model.transformer.wte.weight, before)


def test_another_trainer_scores_with_an_earlier_log(tmp_path: Path) -> None:
    model, data = language_model(), sequences(6, seed=5)
    first = trainer_of(model, tmp_path, data, lora="random")
    first.extract_log()
    expected = first.influence(data[:2])["influence"]
    later = trainer_of(model, tmp_path, data[:2], initialize_from_log=True)
    torch.testing.assert_close(later.influence()["influence"], expected)


def test_a_trainer_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / name for name in ("whole", "killed")]
    data, options = sequences(10, seed=6), {"lora": "pca", "hessian": "ekfac", "resume": True}
    computed = 0

    def stopping(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal computed
        computed += 1
        if computed == stop:
            raise KeyboardInterrupt
        return loss_of(self, *args, **kwargs)

    loss_of = Trainer.compute_loss
    monkeypatch.setattr(Trainer, "compute_loss", stopping)
    # Whose own losses are not to be counted.
    monkeypatch.setattr(LossReduction, "check", lambda *_: None)
    for folder, stops in zip(folders, ([0], [7, 0]), strict=True):
        folder.mkdir()
        for stop in stops:  # batches of 3 samples, so 4 in each of three passes
            computed = 0
            trainer = trainer_of(language_model(), folder, data, name_filter=["mlp"], **options)
            if stop:
                with pytest.raises(KeyboardInterrupt):
                    trainer.extract_log()
            else:
                trainer.extract_log()
    assert computed == 3 * 4 - 6
    found, expected = (files(folder, "log/*/**/*.*") for folder in reversed(folders))
    assert found == expected
    assert len(found) > 3


def test_the_last_batch_is_stored_whatever_training_drops(tmp_path: Path) -> None:
    data = sequences(10, seed=9)
    trainer = trainer_of(language_model(), tmp_path, data, lora="random", data_id="index")
    trainer.args.dataloader_drop_last = True
    trainer.extract_log()
    scores = trainer.influence(data[:4])
    assert scores["tgt_ids"] == [str(place) for place in range(10)]
    assert scores["influence"].shape == (4, 10)
    assert trainer.args.dataloader_drop_last


def padded(count: int, seed: int) -> list[dict[str, Tensor]]:
    """Sequences of which 1, 2, 3... labels are to be predicted."""
    rows = sequences(count, seed)
    for place, row in enumerate(rows):
        row["labels"][: 7 - place % 6] = IGNORED
    return rows


def summed_over_labels(outputs: Any, labels: Tensor, **_: Any) -> Tensor:
    losses: Tensor = torch.nn.functional.cross_entropy(
        outputs["logits"][:, :-1].flatten(0, 1),
        labels[:, 1:].flatten(),
        reduction="sum",
        ignore_index=IGNORED,
    )
    return losses


def mean_over_samples(outputs: Any, labels: Tensor, **_: Any) -> Tensor:
    return summed_over_labels(outputs, labels) / len(labels)


@pytest.mark.parametrize("loss", [None, summed_over_labels])
@pytest.mark.parametrize("declared", ["auto", "right"])
def test_gradients_are_of_summed_losses_however_the_trainer_reduces_its_own(
    tmp_path: Path, loss: Any, declared: str
) -> None:
    options = {"loss_reduction": "mean" if loss is None else "sum"} if declared == "right" else {}
    model, data = language_model(), padded(7, seed=7)
    trainer = trainer_of(model, tmp_path, data, name_filter=["mlp.c_fc"], **options)
    trainer.compute_loss_func = loss
    trainer.extract_log()
    dataset = trainer.logix.build_log_dataset()
    model.eval()
    for place, row in enumerate(data):
        for name, stored in dataset[place][1].items():
            weight = model.get_submodule(name).weight
            (grad,) = torch.autograd.grad(loss_of_one(model, row), [weight])
            torch.testing.assert_close(stored["grad"], grad.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("loss", "declared", "message"),
    [
        (None, "sum", r"'sum': in a batch of 3 .*should be 1 for a sum; .*loss_reduction 'mean'"),
        (summed_over_labels, "mean", r"has 1 of the gradient .*loss_reduction 'sum'"),
        (mean_over_samples, "auto", r"'auto'.* 0.3333 .*labels other than -100 or 1 for a sum"),
    ],
)
def test_another_reduction_than_was_said_is_refused(
    tmp_path: Path, loss: Any, declared: str, message: str
) -> None:
    trainer = trainer_of(
        language_model(), tmp_path, padded(7, seed=8), loss_reduction=declared, lora="random"
    )
    trainer.compute_loss_func = loss
    with pytest.raises(InputError, match=message):
        trainer.extract_log()


def test_arguments_of_logixs_example_are_understood(tmp_path: Path) -> None:
    data = sequences(6, seed=10)
    trainer = trainer_of(
        language_model(),
        tmp_path,
        data,
        lora=True,
        hessian="raw",
        save="grad",
        log_batch_size=8,
        log_num_workers=2,
    )
    trainer.extract_log()
    assert trainer.logix.projections is not None
    assert all(block.width == 16 for block in trainer.logix.layout.blocks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora": "svd"}, r"LogIXArguments: .*'none', 'random' or 'pca', got 'svd'"),
        ({"lora_rank": 3}, r"unknown key 'lora_rank'; allowed: project, .*, lora, .*ignore_idx"),
        ({"hessian": "diagonal"}, r"hessian: .*got 'diagonal'"),
        ({"influence_damping": 0.1, "influence_relative_damping": 0.1}, "allowed: one of them"),
        ({"influence_relative_damping": -1}, "relative_damping=-1.0; allowed: a finite number"),
    ],
)
def test_arguments_that_cannot_be_are_refused_in_one_line(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as found:
        LogIXArguments(project="log", **options)
    assert "\n" not in str(found.value)


def test_damping_is_relative_or_absolute_as_it_is_called(tmp_path: Path) -> None:
    data = sequences(6, seed=11)
    options = {"lora": "random", "name_filter": ["h.0.mlp.c_fc"]}
    first = trainer_of(language_model(), tmp_path, data, **options)
    first.extract_log()
    mean = first.logix.influence.hessian().curvatures["transformer.h.0.mlp.c_fc"].mean_eigenvalue
    default = first.influence(data[:2])["influence"]

    def scores(**damping: float) -> Tensor:
        again = trainer_of(
            language_model(), tmp_path, data, initialize_from_log=True, **options, **damping
        )
        found: Tensor = again.influence(data[:2])["influence"]
        own = again.self_influence(data[:2])["influence"]
        torch.testing.assert_close(found[:, :2].diagonal(), own, rtol=1e-3, atol=1e-6)
        return found

    torch.testing.assert_close(scores(influence_relative_damping=0.1), default)
    torch.testing.assert_close(scores(influence_damping=0.1 * mean), default, rtol=1e-3, atol=1e-5)
    relative, absolute = scores(influence_relative_damping=0.5), scores(influence_damping=0.5)
    assert not torch.allclose(relative, absolute, rtol=0.1)


def test_detokenising_needs_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'detokenize' without a tokenizer"):
        trainer_of(language_model(), tmp_path, sequences(2, seed=0), data_id="detokenize")

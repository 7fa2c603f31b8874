"""The plugin in fairseq's own commands, as its users call them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from common import ROOT
from papers.mmt_how2.translation.binarised_text import binarise
from tests.papers.mmt_how2 import scenes

PLUGIN = ["--user-dir", str(ROOT / "papers/mmt_how2/fairseq_plugin")]
TASK = [*PLUGIN, "--task", "multimodal_translation"]
SIZES = {"train": 43, "valid": 9, "test": 13}


def command(module: str, *words: object) -> subprocess.CompletedProcess[str]:
    """``fairseq-<module> words``: the script of that name calls the same function."""
    program = f"from fairseq_cli.{module} import cli_main; cli_main()"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


def test_preprocess_train_generate(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    visual, splits = tmp_path / "visual", {}
    visual.mkdir()
    for name, count in SIZES.items():
        splits[name], pictures = scenes.pairs(rng, count)
        np.save(visual / f"{name}.npy", pictures)
        for language, lines in zip(("en", "pt"), splits[name], strict=True):
            (tmp_path / f"{name}.{language}").write_text("\n".join(lines) + "\n")
    data = tmp_path / "data-bin"
    prefixes = [word for name in SIZES for word in (f"--{name}pref", tmp_path / name)]
    done = command(
        "preprocess", "--source-lang", "en", "--target-lang", "pt", *prefixes, "--destdir", data
    )
    assert done.returncode == 0, done.stderr
    # What binarise() writes is what fairseq-preprocess writes.
    ours = binarise(splits, tmp_path / "ours", "en", "pt")
    for path in ours.iterdir():
        assert path.read_bytes() == (data / path.name).read_bytes(), path.name

    pictured = [data, *TASK, "--visual-dir", visual]
    save = tmp_path / "checkpoints"
    done = command(
        "train", *pictured, "--arch", "multimodal_lstm_small", "--fusion", "attention_modulation",
        "--criterion", "visual_semantic_regularizer", "--optimizer", "adam", "--lr", "0.005",
        "--batch-size", "20", "--max-epoch", "1", "--save-dir", save, "--eval-bleu", "--cpu",
        "--eval-bleu-args", '{"beam": 2}', "--no-progress-bar", "--seed", "1", "--log-interval", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "--required-batch-size-multiple 8: 1 is used, no sentence is lost" in done.stdout
    assert re.search(r"\| train \|.*num_updates 3 ", done.stdout)  # 43 = 20 + 20 + 3
    assert "transport" in done.stdout

    attention = tmp_path / "attention.jsonl"
    done = command(
        "generate", *pictured, "--path", save / "checkpoint_best.pt", "--gen-subset", "test",
        "--beam", "3", "--nbest", "2", "--batch-size", "5", "--attention-file", attention,
        "--print-alignment", "hard", "--cpu", "--max-len-b", "10", "--wu-length-penalty",
        "--scoring", "sacrebleu", "--sacrebleu-tokenizer", "none",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Translated 13 sentences" in done.stdout + done.stderr
    numbers = re.findall(r"^H-(\d+)\t", done.stdout, flags=re.MULTILINE)
    assert sorted(map(int, numbers)) == sorted([*range(13), *range(13)])
    lines = [json.loads(line) for line in attention.read_text().splitlines()]
    assert sorted(line["id"] for line in lines) == list(range(13))
    for line in lines:
        assert line["source"] == [*splits["test"].source[line["id"]].split(), "</s>"]
        assert np.shape(line["text"]) == (len(line["target"]), len(line["source"]))
        assert np.shape(line["visual"]) == (len(line["source"]),)


def test_bad_input_ends_in_one_clear_line(tmp_path: Path) -> None:
    data, visual = scenes.write(tmp_path, **SIZES)
    np.save(visual / "valid.npy", np.zeros((8, scenes.WIDTH), dtype=np.float32))
    done = command(
        "train", data, *TASK, "--visual-dir", visual, "--arch", "multimodal_lstm_small",
        "--fusion", "output", "--optimizer", "adam", "--batch-size", "8", "--cpu",
        "--save-dir", tmp_path / "checkpoints",
    )  # fmt: skip
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last == (
        f"common.errors.InputError: {visual}/valid.npy: 8 rows for 9 sentences"
        " (line 9 of the text has no row)"
    )


def test_a_user_dir_named_later_is_the_plugin_already_loaded() -> None:
    from argparse import Namespace

    from papers.mmt_how2.translation.fairseq_start import start_fairseq

    start_fairseq()
    from fairseq.utils import import_user_module

    import_user_module(Namespace(user_dir=PLUGIN[1]))
    assert sys.modules["fairseq_plugin"] is sys.modules["papers.mmt_how2.fairseq_plugin"]

"""Small models and batches of two toy dictionaries, made without files."""

from __future__ import annotations

from argparse import Namespace
from types import SimpleNamespace
from typing import Any

import torch

from papers.mmt_how2.translation.fairseq_start import start_fairseq

start_fairseq()

from fairseq.data import Dictionary, data_utils  # noqa: E402
from fairseq.models import ARCH_CONFIG_REGISTRY  # noqa: E402

from papers.mmt_how2.fairseq_plugin.multimodal_lstm import MultimodalLSTMModel  # noqa: E402

WIDTH = 6  # of a picture vector


def toy_dictionary(types: int) -> Any:
    dictionary = Dictionary()
    for number in range(types):
        dictionary.add_symbol(f"w{number}")
    return dictionary


TASK = SimpleNamespace(
    source_dictionary=toy_dictionary(12), target_dictionary=toy_dictionary(15), visual_width=WIDTH
)


def model_of(seed: int = 0, architecture: str = "multimodal_lstm", **options: Any) -> Any:
    """A model of eight units in evaluation mode, its batch norm's statistics not trivial."""
    sizes = {
        f"{side}_{name}": size
        for side, name, size in (
            ("encoder", "embed_dim", 7),
            ("decoder", "embed_dim", 7),
            ("encoder", "hidden_size", 5),
            ("decoder", "hidden_size", 8),
        )
    }
    given = {"criterion": "cross_entropy", "dropout": 0.0} | sizes | options
    args = Namespace(**given)
    ARCH_CONFIG_REGISTRY[architecture](args)
    torch.manual_seed(seed)
    model = MultimodalLSTMModel.build_model(args, TASK)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    # The rows of fairseq's embeddings are small: larger ones make the model's choices clear.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 6
    return model.eval()


def batch_of(lengths: list[int], seed: int = 0, width: int | tuple[int, ...] = WIDTH) -> Any:
    """Random sentences of these source lengths (longest first) with random pictures."""
    assert lengths == sorted(lengths, reverse=True)
    generator = torch.Generator().manual_seed(seed)

    def sentences(dictionary: Any, counts: list[int], eos_first: bool) -> torch.Tensor:
        rows = [
            torch.cat(
                (
                    torch.randint(4, len(dictionary), (count,), generator=generator),
                    torch.tensor([dictionary.eos()]),
                )
            )
            for count in counts
        ]
        return data_utils.collate_tokens(
            rows, dictionary.pad(), dictionary.eos(), move_eos_to_beginning=eos_first
        )

    counts = [1 + (3 * length) % 5 for length in lengths]
    state = generator.get_state()
    target = sentences(TASK.target_dictionary, counts, False)
    generator.set_state(state)
    fed = sentences(TASK.target_dictionary, counts, True)
    shape = (width,) if isinstance(width, int) else width
    return {
        "id": torch.arange(len(lengths)),
        "nsentences": len(lengths),
        "ntokens": int(target.ne(TASK.target_dictionary.pad()).sum()),
        "target": target,
        "net_input": {
            "src_tokens": sentences(TASK.source_dictionary, lengths, False),
            "src_lengths": torch.tensor([length + 1 for length in lengths]),
            "prev_output_tokens": fed,
            "visual": torch.randn(len(lengths), *shape, generator=generator),
        },
    }


def one_of(batch: Any, row: int) -> Any:
    """The batch of one sentence of a batch, without its pads."""
    inputs = batch["net_input"]
    source = inputs["src_lengths"][row : row + 1]
    length = int(batch["target"][row].ne(TASK.target_dictionary.pad()).sum())
    return {
        "id": batch["id"][row : row + 1],
        "nsentences": 1,
        "ntokens": length,
        "target": batch["target"][row : row + 1, :length],
        "net_input": {
            "src_tokens": inputs["src_tokens"][row : row + 1, : int(source)],
            "src_lengths": source,
            "prev_output_tokens": inputs["prev_output_tokens"][row : row + 1, :length],
            "visual": inputs["visual"][row : row + 1],
        },
    }

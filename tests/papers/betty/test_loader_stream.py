"""Batches of a problem's loaders keep their type on the way to the problem."""

from __future__ import annotations

import torch
from transformers import BatchEncoding

from papers.betty.problems.loader_stream import LoaderStream


def test_an_encoding_is_still_one_where_the_problem_gets_it() -> None:
    encoding = BatchEncoding({"input_ids": torch.arange(3)})
    stream = LoaderStream("classify", [[encoding]], torch.device("meta"), lambda: None)
    for _ in range(2):  # the loader gives the same object in the second epoch
        batch = stream.next()
        assert isinstance(batch, BatchEncoding)
        assert batch.input_ids.device.type == "meta"
    assert encoding.input_ids.device.type == "cpu"

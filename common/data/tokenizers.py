"""Published subword vocabularies as plain data: GPT-2's byte pairs and BERT's word pieces.

``tokenizers`` and ``transformers`` read the same files, or are given these values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from common.data.files import read_json, read_lines
from common.data.registry import find
from common.errors import InputError


@dataclass(frozen=True)
class BytePairs:
    """A byte-level BPE: number of each piece, and the merges in order of priority.

    Bytes are written as printable characters; a leading space is ``Ġ``.
    """

    ids: Mapping[str, int]
    merges: tuple[tuple[str, str], ...]


def gpt2_byte_pairs(root: Path | None = None) -> BytePairs:
    """GPT-2's 50,257 pieces and 50,000 merges.

    Raises: InputError if a file is absent or malformed, or a merge makes no piece.
    Source: Radford et al. 2019.
    """
    folder = find("tokenizers", root)
    ids = read_json(folder / "gpt2_vocab.json")
    if not isinstance(ids, dict) or sorted(ids.values()) != list(range(len(ids))):
        raise InputError(f"{folder / 'gpt2_vocab.json'}: expected an object of pieces to 0, 1, ...")
    path = folder / "gpt2_merges.txt"
    version, *lines = read_lines(path)
    if not version.startswith("#version"):
        raise InputError(f"{path}: starts with {version[:40]!r}; expected #version")
    merges = []
    for number, line in enumerate(lines, start=2):
        left, space, right = line.partition(" ")
        if not space or left + right not in ids:
            raise InputError(
                f"{path}: line {number} is {line[:40]!r}; expected two parts of a piece"
            )
        merges.append((left, right))
    return BytePairs(MappingProxyType(ids), tuple(merges))


def byte_pair_encoder(pairs: BytePairs) -> Callable[[Sequence[str]], list[list[int]]]:
    """What turns texts into the numbers of their pieces, as GPT-2 does: no special ones added."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    tokenizer = Tokenizer(BPE(dict(pairs.ids), list(pairs.merges)))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]

    return encode


def bert_word_pieces(root: Path | None = None) -> tuple[str, ...]:
    """The 30,522 pieces of BERT base uncased in order of their numbers; ``##`` continues a word.

    Raises: InputError if the file is absent or repeats a piece. Source: Devlin et al. 2019.
    """
    path = find("tokenizers", root) / "bert-base-uncased-vocab.txt"
    pieces = read_lines(path)
    if len(set(pieces)) != len(pieces):
        raise InputError(f"{path}: {len(pieces)} lines but {len(set(pieces))} distinct pieces")
    return pieces

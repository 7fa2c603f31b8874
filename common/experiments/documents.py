"""What users write: YAML, JSON and paths, read strictly, so that no slip goes unnoticed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final

import yaml

from common.errors import InputError

try:  # libyaml, where PyYAML was built with it: six times as fast
    from yaml import CSafeLoader as _SafeLoader
except ImportError:
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]

#: Collections in each other that a text may have; Python stops at fewer while it builds them.
#: libyaml would go on until the stack ends, and the process with it.
_DEEPEST: Final = 1000


def brief(value: Any) -> str:
    """``value`` for a message; empty where it is too long for one."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return ""
    return text if len(text) <= 80 else ""


class _StrictLoader(_SafeLoader):
    """safe_load of what JSON can say too; what is wrong with a value is a yaml.YAMLError.

    It refuses a key written twice (YAML keeps the last one silently), dates, sets and bytes, a list
    that holds itself, and text that a tag or its look calls a number and that is none (PyYAML lets
    through whatever Python raises then).
    """

    _depth = 0

    def descend_resolver(self, parent: yaml.Node | None, index: Any) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise RecursionError

    def ascend_resolver(self) -> None:
        self._depth -= 1

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, ValueError):
            raise _bad_value(node) from None


def _bad_value(node: yaml.Node) -> yaml.YAMLError:
    kind, shown = node.tag.rpartition(":")[2], brief(node.value) or "the value"
    return yaml.YAMLError(f"{shown} is not a valid {kind} (line {node.start_mark.line + 1})")


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    merge = "tag:yaml.org,2002:merge"  # `<<: *anchor`; keys beside it may override what it brings
    own = (key for key, _ in node.value if key.tag != merge)
    keys = [loader.construct_object(key, deep=True) for key in own]
    twice = sorted({str(key) for key in keys if keys.count(key) > 1})
    if twice:
        raise yaml.YAMLError(f"key {twice[0]!r} is given twice (line {node.start_mark.line + 1})")
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


def _sequence(loader: _StrictLoader, node: yaml.SequenceNode) -> list[Any]:
    return loader.construct_sequence(node, deep=True)


def _no_json(loader: _StrictLoader, node: yaml.Node) -> Any:
    kind, line = node.tag.rpartition(":")[2], node.start_mark.line + 1
    raise yaml.YAMLError(f"a {kind} is not allowed (line {line}); in quotes it is text")


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_SEQUENCE_TAG, _sequence)
for _kind in ("timestamp", "binary", "set", "omap", "pairs"):
    _StrictLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _no_json)


def parsed_yaml(text: str) -> Any:
    """Value of a YAML text. Raises yaml.YAMLError, whatever is wrong with it."""
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except UnicodeEncodeError as error:  # half a character; libyaml wants bytes
        raise yaml.YAMLError(str(error)) from None


def read_yaml(path: Path) -> Any:
    """Contents of a YAML file. Raises InputError if it is absent, malformed or repeats a key."""
    try:
        return parsed_yaml(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: " + " ".join(str(error).split())) from None


def read_json(path: Path, what: str) -> Any:
    """Contents of a JSON file. Raises InputError if it is absent, or not ``what`` it should be."""
    try:
        return parse_json(path.read_text(encoding="utf8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{path}: not {what} ({error})") from None


def parse_json(text: str) -> Any:
    """The value that a JSON text stands for.

    Raises:
        ValueError: it is malformed or nested too deeply, repeats a key (the last would win), or has
            a number that is none: NaN and infinities, which Python writes and reads, and 1e999.
    """
    try:
        return json.loads(
            text, parse_constant=_finite, parse_float=_finite, object_pairs_hook=_unrepeated
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice!r} is given twice")
    return value


def user_path(text: str) -> Path:
    """The path that a user means; ``~`` is a home. Raises InputError for none, or nobody's home."""
    if not text:
        raise InputError("a path is needed, not '' ('.' is the current folder)")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise InputError(f"{text}: there is no such home") from None

"""Settings: pydantic models whose errors name file, key, value and what is allowed.

An unknown key, a wrong type or an impossible value raises :class:`~common.errors.InputError`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from common.errors import InputError
from common.experiments.documents import brief, parsed_yaml

#: Whole numbers are below this, with either sign: what arrays, tensors and compiled code hold.
MAX_INTEGER = 2**63


class Settings(BaseModel):
    """Base of every settings model: frozen, values checked, unknown keys refused.

    Numbers are finite, and whole ones fit into 64 bits.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )

    @field_validator("*")
    @classmethod
    def _check_integers(cls, value: Any) -> Any:
        if _holds_huge_integer(value):
            raise ValueError("whole numbers must lie between -2**63 and 2**63")
        return value


def _holds_huge_integer(value: Any) -> bool:
    if isinstance(value, int):
        return not -MAX_INTEGER < value < MAX_INTEGER
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return False
    return any(map(_holds_huge_integer, value))


def merge_into(base: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Merge ``layer`` into ``base`` in place; nested mappings merge, all else is replaced."""
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            merge_into(base[key], value)
        else:
            base[key] = copy.deepcopy(value)


Model = TypeVar("Model", bound=BaseModel)


def validated(
    model: type[Model], data: Any, where: str, options: Mapping[str, str] | None = None
) -> Model:
    """``model`` from ``data``; InputError names ``where``, key, value and what is allowed.

    Args:
        options: the command-line option that gave a key, for the message.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [_explain(detail, model, options or {}) for detail in error.errors()]
        raise InputError(f"{where}: " + "; ".join(lines)) from None


def _explain(detail: Any, model: type[BaseModel], options: Mapping[str, str]) -> str:
    key = ".".join(str(part) for part in detail["loc"]) or "(top level)"
    name = options.get(key, f"key '{key}'")
    shown = brief(detail["input"])
    if detail["type"] == "extra_forbidden":
        allowed = ", ".join(sorted(_fields_at(model, detail["loc"][:-1]))) or "no keys"
        found = f" (value {shown})" if shown else ""
        return f"unknown key '{key}'{found}; allowed: {allowed}"
    if detail["type"] == "missing":
        return f"{name} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{name}: {message}" + (f", got {shown}" if shown else "")


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> set[str]:
    """Field names of the model at ``location``, found by walking the JSON schema."""
    schema = model.model_json_schema()
    node: Any = schema
    for part in location:
        node = _resolve(schema, node)
        if part in node.get("properties", {}):
            node = node["properties"][part]
        else:
            node = node.get("additionalProperties") or node.get("items") or {}
    return set(_resolve(schema, node).get("properties", {}))


def _resolve(schema: dict[str, Any], node: Any) -> Any:
    for option in node.get("anyOf", []):
        if "$ref" in option:
            node = option
    if "$ref" in node:
        return schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """``["search.generations=5"]`` -> ``{"search": {"generations": 5}}``; values are YAML."""
    result: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not all(key.split(".")):
            raise InputError(f"--set {pair!r}: must be key=value, e.g. --set interval_s=120")
        try:
            value: Any = parsed_yaml(text)
        except yaml.YAMLError as error:
            given, reason = brief(pair) or f"'{key}=...'", " ".join(str(error).split())
            raise InputError(f"--set {given}: the value is not valid YAML: {reason}") from None
        for part in reversed(key.split(".")):
            value = {part: value}
        merge_into(result, value)
    return result


def schema_text(model: type[BaseModel]) -> str:
    """JSON schema (draft 2020-12) of ``model`` as it stands in ``workflow/schema``."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(schema | model.model_json_schema(), indent=2, sort_keys=True) + "\n"

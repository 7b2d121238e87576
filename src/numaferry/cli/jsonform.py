"""The JSON that `-f json` prints: attrs values field by field, CPU sets and PCI addresses in libvirt's form."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import attrs

from numaferry.model import CpuSet, PciAddress


def to_json(value: object) -> Any:
    """Return JSON-ready values; raises TypeError for what has no form."""
    if isinstance(value, enum.Enum):
        return value.value
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (CpuSet, PciAddress)):
        return str(value)
    cls: type[Any] = type(value)
    if attrs.has(cls):
        # A field that is kept out of the repr is a secret's.
        return {one.name: to_json(getattr(value, one.name)) for one in attrs.fields(cls) if one.repr}
    return _container(value)


def _container(value: object) -> Any:
    """Return the JSON form of a mapping, sequence or set."""
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, AbstractSet):
        return sorted(to_json(item) for item in value)
    raise TypeError(f"no JSON form for {type(value).__name__}")


def dumps(value: object) -> str:
    """Return indented JSON text, keys in the order of the fields."""
    return json.dumps(to_json(value), indent=2, ensure_ascii=False)


def dumps_line(value: object) -> str:
    """Return JSON text in one line, for answers that are an object a line."""
    return json.dumps(to_json(value), ensure_ascii=False)

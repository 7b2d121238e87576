"""Model values to JSON and back, exactly: what the ledger stores (what `-f json` prints is `cli.jsonform`'s).

CPU sets are written as libvirt writes them (``0-3,8``), PCI addresses likewise; everything else as attrs fields.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

import attrs
from cattrs import Converter

from numaferry.model import host, instance, migration, placement, policy
from numaferry.model.cpuset import CpuSet
from numaferry.model.host import PciAddress

T = TypeVar("T")

_NAMES = {**vars(host), **vars(instance), **vars(placement), **vars(migration), **vars(policy)}
for _module in (host, instance, placement, migration, policy):
    for _cls in [c for c in vars(_module).values() if isinstance(c, type) and attrs.has(c)]:
        attrs.resolve_types(_cls, globalns=_NAMES, localns=_NAMES)


def _page_size_wish(value: Any, _type: object) -> int | str | None:
    """A page size wish is JSON already: a number, a word or null."""
    if value is None or isinstance(value, (int, str)):
        return value
    raise TypeError(f"not a page size: {value!r}")


def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=True)
    converter.register_unstructure_hook(CpuSet, str)
    converter.register_structure_hook(CpuSet, lambda text, _type: CpuSet.parse(text))
    converter.register_unstructure_hook(PciAddress, str)
    converter.register_structure_hook(PciAddress, lambda text, _type: PciAddress.parse(text))
    converter.register_structure_hook(instance.PageSizeWish, _page_size_wish)
    return converter


_CONVERTER = _converter()
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def to_dict(value: object) -> Any:
    """Return JSON-ready dicts, lists and scalars for a model value."""
    return _CONVERTER.unstructure(value)


def from_dict(data: object, cls: type[T]) -> T:
    """Build a value of `cls` from what `to_dict` made; raises cattrs' errors for data of another shape."""
    return _CONVERTER.structure(data, cls)


def dumps(value: object) -> str:
    """Return compact JSON with sorted keys, so that equal values give equal text."""
    return _ENCODER.encode(to_dict(value))


def loads(text: str, cls: type[T]) -> T:
    """Read what `dumps` wrote."""
    return from_dict(json.loads(text), cls)

"""The words in extra specs: CPU lists, page sizes, booleans, counts; read as nova reads them.

Sources: nova's `hardware.parse_cpu_spec`, oslo.utils `strutils` (bool_from_string, string_to_bytes, is_int_like).
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final, Literal, cast

from numaferry.errors import InvalidRequest
from numaferry.model import CpuSet
from numaferry.model.cpuset import MAX_CPU_ID

PAGE_WORDS: Final = ("small", "large", "any")
_TRUE: Final = frozenset({"1", "t", "true", "on", "y", "yes"})
_CPU_PART: Final = re.compile(r"(?P<minus>\^?)\s*(?P<first>\d{1,6})(?:\s*-\s*(?P<last>\d{1,6}))?")
_SIZE: Final = re.compile(r"(?P<number>\d*\.?\d+)(?P<unit>[KMGTPE]?)(?:i?)(?P<byte>b|bit|B)")
_POWER: Final = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}


def invalid(code: str, message: str, hint: str) -> InvalidRequest:
    """Return the error whose `code` is the name of nova's exception."""
    return InvalidRequest(message, hint=hint, code=code)


def parse_bool(text: str | None) -> bool:
    """Tell whether a word means yes, as oslo's `bool_from_string`: what is not known is no."""
    return (text or "").strip().lower() in _TRUE


def parse_int(text: str) -> int | None:
    """Return the number that `text` is exactly (no leading zeros, as oslo's `is_int_like`), or None."""
    return int(text) if re.fullmatch(r"-?(0|[1-9]\d{0,9})", text) else None


def parse_cpu_spec(text: str, *, spec: str) -> CpuSet:
    """Read ``0-3,^2,8``; exclusions hold wherever they stand, and empty parts are passed over, as in nova.

    This differs from `CpuSet.parse` (libvirt: an exclusion removes from what stands before it). Raises InvalidRequest
    with nova's code ``Invalid`` that names the extra spec and quotes the part.
    """
    included = excluded = CpuSet()
    for part in (piece.strip() for piece in text.split(",")):
        if not part:
            continue
        found = _CPU_PART.fullmatch(part)
        last = -1 if found is None else int(found["last"] or found["first"])
        if found is None or int(found["first"]) > last or last > MAX_CPU_ID:
            raise invalid("Invalid", f"{spec}={text!r}: can't read {part!r}", "write it like 0-3,^2,8")
        cpus = CpuSet.of(range(int(found["first"]), last + 1))
        if found["minus"]:
            excluded |= cpus
        else:
            included |= cpus
    return included - excluded


def parse_vcpu_mask(text: str, vcpus: int, *, spec: str) -> CpuSet:
    """Read a mask of guest vCPUs; one that begins with ``^`` takes away from all of them."""
    if text.strip().startswith("^"):
        return parse_cpu_spec(f"0-{vcpus - 1},{text}", spec=spec)
    return parse_cpu_spec(text, spec=spec)


def parse_page_size(text: str, *, spec: str) -> int | Literal["small", "large", "any"]:
    """Read ``hw:mem_page_size``: a word, KiB, or a size with unit (2MB, 1GiB), to KiB.

    Raises InvalidRequest with nova's code ``MemoryPageSizeInvalid`` for anything else, and (unlike nova, which takes
    them and then finds no host) for 0 and for sizes that are no whole KiB.
    """
    if text in PAGE_WORDS:
        return cast('Literal["small", "large", "any"]', text)
    found = _SIZE.fullmatch(text)
    if text.isdigit():
        size = Fraction(int(text))
    elif found is not None:
        size = Fraction(found["number"]) * 1024 ** _POWER[found["unit"]] / (1024 if found["byte"] == "B" else 8 * 1024)
    else:
        size = Fraction(0)
    if size <= 0 or size.denominator != 1:
        raise invalid(
            "MemoryPageSizeInvalid",
            f"{spec}={text!r} is no page size",
            "use small, large, any, KiB (2048), or a size with unit (2MB, 1GB)",
        )
    return int(size)

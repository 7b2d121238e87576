"""Versions of libvirt that are known to get a migration wrong, for which guests: a literal table, with sources. Pure.

None of them refuses: distributions mend such faults without changing the version, so each is "can't be known", said
aloud. What a version can't do at all is `policy_checks` (post-copy with parallel connections needs QEMU 10.1).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, NamedTuple

from numaferry.migration.outcome import Check, Outcome
from numaferry.model import version_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from numaferry.model import HostFacts, StartNeeds

NAME: Final = "known-bad-version"


class Side(enum.StrEnum):
    """Which of the two hosts the fault is on."""

    SOURCE = "source"
    EITHER = "either"


class KnownBad(NamedTuple):
    """libvirt from `first` to before `mended` on `side` goes wrong with the guests that `applies` names."""

    first: int
    mended: int
    side: Side
    guests: str
    applies: Callable[[StartNeeds], bool]
    words: str
    source: str


def _vmx(needs: StartNeeds) -> bool:
    return any(name.startswith("vmx-") for name in needs.cpu_features)


KNOWN_BAD: Final = (
    KnownBad(
        8_008_000,
        8_009_000,
        Side.EITHER,
        "any",
        lambda _: True,
        "its daemon crashes when it is restarted while a migration runs",
        "libvirt NEWS, 8.9.0",
    ),
    KnownBad(
        9_010_000,
        10_002_000,
        Side.EITHER,
        "with vmx-* CPU features",
        _vmx,
        "it takes features vmx-* for missing or unexpected that older and newer ones do not",
        "libvirt issue 568; NEWS, 10.2.0; libvirt commit 5fbfa5ab8a3b",
    ),
    KnownBad(
        10_002_000,
        10_003_000,
        Side.SOURCE,
        "with a CPU model",
        lambda needs: needs.cpu_mode == "custom",
        "it may hold the CPU of the destination XML for another one, and refuse",
        "libvirt NEWS, 10.3.0",
    ),
)


def check_versions(needs: StartNeeds, source: HostFacts, dest: HostFacts) -> tuple[Check, ...]:
    """Return one check per known fault that this guest may meet between these hosts, or one that says none is known."""
    met = [words for bad in KNOWN_BAD if bad.applies(needs) and (words := _met(bad, source, dest))]
    if not met:
        return (Check(NAME, Outcome.OK, "no fault is known of these versions of libvirt with this guest"),)
    return tuple(Check(NAME, Outcome.UNKNOWN, words) for words in met)


def _met(bad: KnownBad, source: HostFacts, dest: HostFacts) -> str:
    hosts = (source,) if bad.side is Side.SOURCE else (source, dest)
    for facts in hosts:
        if bad.first <= facts.libvirt_version < bad.mended:
            return (
                f"libvirt {version_text(facts.libvirt_version)} on {facts.hostname}: {bad.words}; "
                f"mended in {version_text(bad.mended)} ({bad.source})"
            )
    return ""

"""One word about one thing that was looked at before a move."""

from __future__ import annotations

import enum

import attrs


class Outcome(enum.StrEnum):
    """What a check found; unknown is said aloud and does not refuse."""

    OK = "ok"
    FAILS = "fails"
    UNKNOWN = "unknown"


@attrs.frozen(slots=True)
class Check:
    """One check: a stable name, the outcome, and the sentence with its numbers."""

    name: str
    outcome: Outcome
    reason: str
    #: What helps against a failure; "" where the reason says enough.
    hint: str = ""

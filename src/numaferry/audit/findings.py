"""A finding: one thing where promise and reality are not the same, in words and numbers, with a command that helps."""

from __future__ import annotations

import enum

import attrs


class Severity(enum.StrEnum):
    """How bad: `error` breaks a promise now, `warning` may, `info` is worth knowing."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@attrs.frozen(slots=True)
class Finding:
    """`kind` is a stable word, `subject` what it is about (a guest's name, "CPU 3", "2048 KiB pages on cell 0")."""

    kind: str
    severity: Severity
    host: str
    subject: str
    sentence: str
    #: A command to type, or "" where a person has to think first.
    remedy: str = ""

"""Telling from a guest's serial line whether it lived through everything: counted on, never restarted, kept its memory.

The lines, written by both lab guests: ``START kind …``, ``READY``, ``C 17`` (ten times per second of guest time),
``NIC driver mac``, ``DIRTY mib=4``, ``CORRUPT at=… got=… want=…``, ``FAULT``. Anything else (firmware, kernel) is none
of ours. A serial line has no clock, so gaps are measured by whoever reads while it is written.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from typing import TYPE_CHECKING, Self

from attrs import define, evolve, field, frozen

from numaferry.errors import HypervisorError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

POLL_S = 0.02

_COUNTER = re.compile(r"C (\d+)")


@frozen
class Break:
    """A place where the counter did not go on by one: `before` and `after` are its values on both sides."""

    before: int
    after: int


@frozen
class SerialReport:
    """What a serial line told until now.

    `starts` counts the guest's beginnings; `first` and `last` are counter values (None before the first); `breaks`
    lists where the counter jumped or fell back; `corruptions` are the lines that told of wrong memory, `faults` of a
    fault of the guest; `longest_gap_s` is the longest time between two counter lines as they were read (0.0 when the
    line was read in one piece), `gap_before` the counter that followed it.
    """

    starts: int = 0
    ready: bool = False
    first: int | None = None
    last: int | None = None
    breaks: tuple[Break, ...] = ()
    corruptions: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    dirty_mib: int | None = None
    longest_gap_s: float = 0.0
    gap_before: int | None = None

    @property
    def contiguous(self) -> bool:
        """Whether the counter went on by one each time, over at least two lines."""
        return self.first is not None and self.last is not None and self.last > self.first and not self.breaks

    @property
    def corrupt(self) -> bool:
        """Whether the guest ever found wrong memory."""
        return bool(self.corruptions)

    @property
    def intact(self) -> bool:
        """Whether this is one life of one guest without harm: one start, contiguous, no corruption, no fault."""
        return self.starts == 1 and self.contiguous and not self.corrupt and not self.faults


@define
class SerialParser:
    """Takes the serial line's text in pieces of any size, with the time each was read at; does no I/O."""

    report: SerialReport = field(factory=SerialReport)
    _rest: str = ""
    _read_at_s: float | None = None

    def feed(self, text: str, at_s: float = 0.0) -> SerialReport:
        """Take `text`, read at `at_s` (seconds of any monotonic clock), and return the report until here.

        An unfinished last line is kept for the next piece.
        """
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._line(line.rstrip("\r"), at_s)
        return self.report

    def _line(self, line: str, at_s: float) -> None:
        report = self.report
        word = line.partition(" ")[0]
        if counter := _COUNTER.fullmatch(line):
            self._counter(int(counter[1]), at_s)
        elif word == "START":
            self.report = evolve(report, starts=report.starts + 1)
        elif word == "READY":
            self.report = evolve(report, ready=True)
        elif word == "CORRUPT":
            self.report = evolve(report, corruptions=(*report.corruptions, line))
        elif word == "FAULT":
            self.report = evolve(report, faults=(*report.faults, line))
        elif told := re.fullmatch(r"DIRTY mib=(\d+)", line):
            self.report = evolve(report, dirty_mib=int(told[1]))

    def _counter(self, value: int, at_s: float) -> None:
        report = self.report
        if report.last is not None and value != report.last + 1:
            report = evolve(report, breaks=(*report.breaks, Break(before=report.last, after=value)))
        gap_s = 0.0 if self._read_at_s is None else at_s - self._read_at_s
        if gap_s > report.longest_gap_s:
            report = evolve(report, longest_gap_s=gap_s, gap_before=value)
        self._read_at_s = at_s
        self.report = evolve(report, first=value if report.first is None else report.first, last=value)


class SerialWatch:
    """Follows the file that a guest's serial line is written to (`<serial type='file'>`, append='on').

    Reading is up to the caller: `poll()` takes what is new; the `until_*` methods poll until something is told, and
    `following()` polls in the background, without which gaps are only as good as the caller's polling.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        self._parser = SerialParser()
        self._offset = 0
        self._lock = threading.Lock()

    @classmethod
    def of_new(cls, path: Path) -> Self:
        """Return a watch of `path` made empty, for a guest that is about to start."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        return cls(path)

    @property
    def report(self) -> SerialReport:
        """The report until the last `poll()`."""
        return self._parser.report

    def poll(self) -> SerialReport:
        """Read what was written since, and return the report."""
        with self._lock:
            try:
                with self.path.open("rb") as file:
                    file.seek(self._offset)
                    new = file.read()
            except FileNotFoundError:
                new = b""
            self._offset += len(new)
            # a serial line before any guest speaks is firmware's: not always text
            return self._parser.feed(new.decode("latin-1"), self._clock())

    @contextlib.contextmanager
    def following(self) -> Iterator[Self]:
        """Poll in a thread of its own for as long as the context lasts, so that gaps are measured to `POLL_S`."""
        ended = threading.Event()

        def follow() -> None:
            while not ended.wait(POLL_S):
                self.poll()

        thread = threading.Thread(target=follow, name=f"serial {self.path.name}")
        thread.start()
        try:
            yield self
        finally:
            ended.set()
            thread.join()

    def until(self, told: Callable[[SerialReport], bool], *, what: str, timeout_s: float) -> SerialReport:
        """Poll until `told(report)`; `what` names it in the error.

        Raises HypervisorError, quoting the line's end, when it wasn't told within `timeout_s`.
        """
        deadline = self._clock() + timeout_s
        while not told(self.poll()):
            if self._clock() > deadline:
                raise HypervisorError(
                    f"{self.path.name}: no {what} within {timeout_s:g} s; it ends with {self._tail()!r}",
                    hint="look at the guest's log in /var/log/libvirt/qemu of its host",
                )
            time.sleep(POLL_S)
        return self.report

    def until_count(self, value: int, timeout_s: float = 60) -> SerialReport:
        """Poll until the counter has reached `value`."""
        return self.until(lambda told: (told.last or 0) >= value, what=f"counter {value}", timeout_s=timeout_s)

    def until_more(self, count: int = 5, timeout_s: float = 60) -> SerialReport:
        """Poll until the counter went on by `count` from what is written now."""
        return self.until_count((self.poll().last or 0) + count, timeout_s)

    def _tail(self) -> str:
        try:
            return self.path.read_bytes()[-200:].decode("latin-1")
        except FileNotFoundError:
            return ""

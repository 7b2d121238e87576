"""`make demo`: reads LAB, KEEP and SABOTAGE from the environment, plays, and ends non-zero where a proof fails."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from typing import TYPE_CHECKING

from numaferry.demo import casting, story
from numaferry.demo.stage import NAME, Stage, Teller
from numaferry.errors import Conflict, InvalidInput, NumaferryError
from numaferry.lab import lab_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What a lab boots in, by measurement on 2 cores under TCG.
BOOT_EXPECTED_S = 60


def play_hosts(sabotage: str, *, keep: bool) -> int:
    """Play the whole story on two real hosts and return the exit code."""
    teller = Teller()
    started = time.monotonic()
    teller.line(
        f"numaferry demo: two hosts with NUMA, real libvirt, real guests (the lab boots in ~{BOOT_EXPECTED_S} s)"
    )
    stage = Stage.up("hosts", teller, casting.NOTATIONS)
    teller.line(f"the lab is up after {time.monotonic() - started:.0f} s (expected {BOOT_EXPECTED_S} s)")
    teller.line(f"its guests are of type {stage.lab.guest_type}")
    try:
        tell = story.Telling(stage, sabotage)
        for number, phase in enumerate(story.PHASES, start=1):
            begun = time.monotonic()
            teller.line()
            teller.line(f"── {number}/{len(story.PHASES)} {phase.title} (expected {phase.expected_s} s)")
            phase.play(tell)
            teller.line(f"── took {time.monotonic() - begun:.0f} s")
        teller.line()
        teller.line(f"{tell.shown} of {story.PROOFS} proofs hold, after {time.monotonic() - started:.0f} s in all.")
    finally:
        story.end(stage, keep=keep)
    return 0 if tell.shown == story.PROOFS else 1


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Hold the demo's place on this machine; raises Conflict while another demo plays, which it would take down."""
    place = lab_directory(NAME)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (place / "playing").open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise Conflict(
                f"another demo is playing in {place} (process {file.read().strip() or 'unknown'})",
                hint="wait for its end, or end it",
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def main() -> int:
    """Choose the story by LAB and play it; errors are one line and a hint."""
    lab = os.environ.get("LAB") or "hosts"
    sabotage = os.environ.get("SABOTAGE") or ""
    keep = os.environ.get("KEEP") == "1"
    try:
        if sabotage not in {"", story.EACH, *(str(n) for n in range(1, story.PROOFS + 1))}:
            raise InvalidInput(f"SABOTAGE={sabotage} names no proof", hint=f"1 to {story.PROOFS}, or {story.EACH}")
        with only_one():
            if lab == "hosts":
                return play_hosts(sabotage, keep=keep)
            from numaferry.demo import small  # noqa: PLC0415 - only where asked for

            return small.play(lab, sabotage, keep=keep)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; the lab was taken down\n")
        return 130
    except NumaferryError as error:
        sys.stderr.write(f"demo: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())

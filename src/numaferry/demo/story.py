"""The story on real hosts, phase by phase: a table with what each phase shows and how long it is expected to take."""

from __future__ import annotations

import re
import subprocess
import time
from typing import TYPE_CHECKING

import attrs

from numaferry.demo import casting, proofs
from numaferry.demo.proofs import owned_cpus
from numaferry.demo.stage import DemoFailed, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from numaferry.demo.proofs import Proof
    from numaferry.lab.guests import GuestImage

#: SABOTAGE=each looks at every proof clean, spoils it, demands that it fails, and mends it.
EACH = "each"

#: MiB/s of the migration whose controller is killed: slow enough to be caught in the middle.
SLOW_MIB_S = 3


@attrs.define
class Telling:
    """The state of the story: the stage, which proof to spoil, and the proofs so far."""

    stage: Stage
    sabotage: str
    shown: int = 0
    image: GuestImage | None = None

    def line(self, text: str = "") -> None:
        """Print a line of the story."""
        self.stage.teller.line(text)

    def prove(self, number: int, proof: Proof) -> None:
        """Look at one claim of the real thing; spoil it first where the sabotage asks for it."""
        if self.sabotage == str(number):
            self.line(f"SABOTAGE: spoiling proof {number}")
            proof.spoil(self.stage)
        evidence = proof.check(self.stage)
        self.shown += 1
        self.line(f"PROOF {number}: {proof.claim}")
        for line in evidence:
            self.line(f"  {line}")
        if self.sabotage == EACH:
            proof.spoil(self.stage)
            self.must_fail(number, lambda: proof.check(self.stage))
            proof.mend(self.stage)

    def must_fail(self, number: int, check: Callable[[], object]) -> None:
        """Demand that a spoiled proof fails; a proof that can't fail proves nothing."""
        try:
            check()
        except DemoFailed as found:
            self.line(f"  (spoiled on purpose, proof {number} failed as it must: {found.message})")
            return
        raise DemoFailed(f"proof {number} was spoiled and still holds: it proves nothing")


def today(tell: Telling) -> None:
    """What people do today: move a twin of db1 by hand, with the pins that it has."""
    stage, made = tell.stage, _image(tell)
    stage.start_guest(stage.dest, casting.noisy1(stage, made))
    stage.start_guest(stage.source, casting.twin1(stage, made))
    tell.line("noisy1 runs on B on CPUs 2 and 6; twin1 runs on A, on CPUs 2 and 6 of A. Now move twin1 as one does:")
    stage.virsh(
        stage.source,
        *("migrate", "--live", "--p2p", "--persistent", "--undefinesource", "twin1"),
        *(stage.dest.uri, f"tcp://{stage.dest.ip}"),
        show=True,
    )
    tell.prove(1, proofs.TodayPinsTwice())
    tell.line("virsh ended with success, and nobody is told. The throw-away twin is removed.")
    stage.forget_guest(stage.dest, "twin1")


def manage(tell: Telling) -> None:
    """Start db1, tell numaferry of the hosts, and adopt what runs."""
    stage = tell.stage
    stage.start_guest(stage.source, casting.db1(stage, _image(tell)))
    stage.numaferry("host", "import", str(casting.hosts_toml(stage)))
    stage.numaferry("instance", "adopt", "--all")
    stage.numaferry("instance", "list")


def move(tell: Telling) -> None:
    """Move db1, both hosts drawn before and after."""
    stage = tell.stage
    _draw(tell, "before")
    stage.numaferry("migrate", "db1", "--dest", stage.dest.name)
    _draw(tell, "after")


def prove(tell: Telling) -> None:
    """Prove from inside the destination host that the promise is kept."""
    looked_at: tuple[Proof, ...] = (
        proofs.NoCpuShared(),
        proofs.PagesOnTheCells(),
        proofs.CounterUnbroken(),
        proofs.FramesArrive(),
        proofs.ClaimsExact(),
    )
    for number, proof in enumerate(looked_at, start=2):
        tell.prove(number, proof)


def explain(tell: Telling) -> None:
    """Try a move that can't fit, see why, do what the explanation suggests, and move."""
    stage, number = tell.stage, 7
    stage.start_guest(stage.source, casting.db2(stage, _image(tell)))
    stage.numaferry("instance", "adopt", "db2", "--host", stage.source.name)
    stage.numaferry("migrate", "db2", "--dest", stage.dest.name, expect=4)
    said = stage.numaferry("explain", "db2", stage.dest.name, expect=None)
    leavers = [name for name in re.findall(r"fits if instance (\S+) leaves", said) if name != "db1"]
    if not leavers:
        raise DemoFailed("the explanation suggests no guest whose leaving would make room")
    leaver = leavers[0]

    def follow() -> None:
        stage.numaferry("migrate", "db2", "--dest", stage.dest.name)
        pins = proofs.claimed_pins(stage, "db2")
        tell.shown += 1
        tell.line(f"PROOF {number}: the suggestion is true: with {leaver} moved away, db2 runs on {pins}")

    if tell.sabotage == str(number):
        tell.line(f"SABOTAGE: spoiling proof {number}: the suggestion is not followed")
        follow()
    if tell.sabotage == EACH:
        tell.must_fail(number, follow)
    stage.numaferry("migrate", leaver, "--dest", stage.source.name)
    follow()


def crash(tell: Telling, number: int = 8) -> None:
    """Kill the controller in the middle of a slow move; another one adopts the job and finishes it."""
    stage = tell.stage
    _kill_in_the_middle(tell)
    if tell.sabotage in {str(number), EACH}:
        tell.line(f"SABOTAGE: spoiling proof {number}: the job is aborted behind the controller's back")
        stage.virsh(stage.dest, "domjobabort", "db1")
        stage.numaferry("migration", "recover", expect=None)
        if tell.sabotage != EACH:
            _finished(tell, number)
        tell.must_fail(number, lambda: _finished(tell, number))
        _kill_in_the_middle(tell)
    stage.numaferry("migration", "recover")
    _finished(tell, number)
    stage.numaferry("audit", expect=None)


def _kill_in_the_middle(tell: Telling) -> None:
    """Start a bandwidth-limited move back to A and kill its controller when some, not all, memory was processed."""
    stage = tell.stage
    words = ("migrate", "db1", "--dest", stage.source.name, "--bandwidth", str(SLOW_MIB_S))
    tell.line(f"$ numaferry {' '.join(words)} &")
    controller = subprocess.Popen(
        stage.command(*words),
        env=stage.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        processed, remaining = _in_the_middle(stage, controller)
    finally:
        controller.kill()
        controller.wait()
    tell.line(f"$ kill -9 {controller.pid}   # processed {processed} KiB, {remaining} KiB remaining")
    tell.line(f"  the job goes on without its controller: {'memory_remaining' in _job(stage)}")


def _in_the_middle(stage: Stage, controller: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Wait until libvirt reports a job with some, not all, memory processed; KiB processed and remaining."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if controller.poll() is not None:
            raise DemoFailed(f"the migration ended with {controller.returncode} before it could be killed")
        job = dict(re.findall(r"(?m)^(\S+): *(\d+)", _job(stage)))
        processed = int(job.get("memory_processed", 0)) // 1024
        remaining = int(job.get("memory_remaining", 0)) // 1024
        if processed > 1024 and remaining > SLOW_MIB_S * 1024 * 2:
            return processed, remaining
        time.sleep(0.3)
    raise DemoFailed("in 120 s libvirt reported no job with some, but not all, memory processed")


def _job(stage: Stage) -> str:
    """Return libvirt's raw job statistics as KEY: VALUE lines, by virsh, without numaferry."""
    raw = stage.virsh(stage.dest, "domjobinfo", "db1", "--rawstats", check=False)
    return raw.replace("=", ": ")


def _finished(tell: Telling, number: int) -> None:
    """Prove that the move has ended well, and that nothing of it is left on the host it came from."""
    stage = tell.stage
    last = stage.ask("migration", "list")[0]
    if last["status"] != "completed":
        raise DemoFailed(f"migration {last['id']} is {last['status']}: {last['reason']}")
    if left := owned_cpus(stage, stage.dest, "db1"):
        raise DemoFailed(f"db1 left {stage.dest.name} and still owns CPUs {left} there")
    counter = proofs.CounterUnbroken().check(stage)
    tell.shown += 1
    tell.line(f"PROOF {number}: the job was adopted and finished: migration {last['id']} is completed, nothing leaked")
    for line in counter:
        tell.line(f"  {line}")


def _draw(tell: Telling, when: str) -> None:
    for letter, host in zip("AB", tell.stage.lab.hosts, strict=True):
        tell.line(f"Host {letter}, {when}:")
        tell.stage.numaferry("topology", host.name)


def _image(tell: Telling) -> GuestImage:
    if tell.image is None:
        tell.image = casting.image(tell.stage)
    return tell.image


def end(stage: Stage, *, keep: bool) -> None:
    """Take the lab down, or leave it up and say what to try next."""
    if not keep:
        stage.down()
        return
    say = stage.teller.line
    say(f"KEEP=1: the lab stays up. Try, in this folder:\n  export NUMAFERRY_DB={stage.ledger_url}")
    say(f"  .venv/bin/numaferry topology {stage.dest.name}")
    say(f"  .venv/bin/numaferry migrate db1 --dest {stage.dest.name} --dry-run")
    say(f"  .venv/bin/numaferry ledger explain {stage.source.name}")
    say(f"  virsh -c {stage.source.uri} list --all")
    say(f"  .venv/bin/numaferry lab exec --name demo {stage.source.name} -- ls /sys/class/net    # inside the host")
    say("  .venv/bin/numaferry lab down --name demo    # when you are done")


@attrs.frozen
class Phase:
    """One phase: its title, its expected seconds on 2 cores under TCG, and what it does."""

    title: str
    expected_s: int
    play: Callable[[Telling], None]


PHASES = (
    Phase("(a) What people do today: virsh migrate, and two guests share CPUs", 40, today),
    Phase("Start db1, tell numaferry of both hosts, adopt their guests", 20, manage),
    Phase("(b) Move db1 with numaferry", 30, move),
    Phase("(c) Prove it from inside the destination host", 10, prove),
    Phase("(d) A move that can't fit, explained, and made to fit", 70, explain),
    Phase("(e) Kill the controller in the middle; the job is adopted and finished", 45, crash),
)
PROOFS = 8

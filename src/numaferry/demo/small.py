"""The smaller demos, for machines that can't run the hosts: chosen by name, and labelled on every line.

``LAB=namespaces``: two real libvirtds and real QEMUs, but both "hosts" share this machine's CPUs and pages, so neither
exclusivity nor page counts are shown. ``LAB=simulated``: no hypervisor at all, a fleet in memory; needs no root.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from numaferry.demo import casting, proofs, story
from numaferry.demo.evidence import collect
from numaferry.demo.stage import DemoFailed, Stage, Teller
from numaferry.errors import InvalidInput
from numaferry.lab.guests import GuestCell, GuestSpec, MacvtapNic, domain_xml
from numaferry.lab.guests.image import GuestImage
from numaferry.migration.controllers import name_of
from numaferry.service import Ferry
from numaferry.virt.simulated import ClientDied, Fleet

if TYPE_CHECKING:
    from collections.abc import Callable

    from numaferry.demo.proofs import Proof

ONE_CPU = "1"


def play(lab: str, sabotage: str, *, keep: bool) -> int:
    """Play the named smaller demo and return the exit code; raises InvalidInput for another name."""
    stories: dict[str, Callable[[str, bool], int]] = {"namespaces": _namespaces, "simulated": _simulated}
    if lab not in stories:
        raise InvalidInput(f"LAB={lab} is no demo", hint="hosts, namespaces or simulated")
    return stories[lab](sabotage, keep)


class PinsAsClaimed:
    """Every vCPU thread has the mask that the ledger claims, as the kernel has it."""

    claim = "every vCPU thread runs on the CPU that the ledger claims (masks as the kernel has them)"

    def check(self, stage: Stage) -> list[str]:
        """Compare the masks on host B with the ledger."""
        seen = collect(stage.dest, ["db1"]).get("db1")
        pins = proofs.claimed_pins(stage, "db1")
        found = {} if seen is None else {t.vcpu: str(t.cpus) for t in seen.threads if t.vcpu is not None}
        if found != {vcpu: str(cpu) for vcpu, cpu in pins.items()}:
            raise DemoFailed(f"the ledger claims {pins} for db1, the kernel has {found}")
        return [f"  vCPU {vcpu} on CPU {cpu}" for vcpu, cpu in pins.items()]

    def spoil(self, stage: Stage) -> None:
        """Open the mask of vCPU 0 behind libvirt's back."""
        self._set(stage, "0-1")

    def mend(self, stage: Stage) -> None:
        """Set it back."""
        self._set(stage, ONE_CPU)

    def _set(self, stage: Stage, cpus: str) -> None:
        stage.dest.exec(f"taskset -p -c {cpus} {collect(stage.dest, ['db1'])['db1'].vcpu_thread(0).tid}")


def _namespaces(sabotage: str, keep: bool) -> int:  # noqa: FBT001 - one shape for both stories
    teller = Teller("[namespaces] ")
    teller.line(
        "two libvirtds in namespaces of this machine: they share its CPUs and pages, so exclusivity is not shown"
    )
    stage = Stage.up("namespaces", teller, ())
    tell = story.Telling(stage, sabotage)
    looked_at: tuple[Proof, ...] = (PinsAsClaimed(), proofs.CounterUnbroken(), proofs.FramesArrive())
    try:
        made = casting.image(stage)
        guest = GuestSpec(
            name="db1",
            image=made,
            serial=stage.source.share / "db1.serial",
            cells=(GuestCell("0", casting.CELL_MIB, "0"),),
            vcpu_pins={0: ONE_CPU},
            emulator_pin=ONE_CPU,
            nics=(MacvtapNic(stage.source.data_links[0], casting.DB1_MAC),),
            domain_type="qemu",
        )
        stage.start_guest(stage.source, guest)
        stage.numaferry("host", "import", str(casting.hosts_toml(stage, dedicated=ONE_CPU, shared="0")))
        stage.numaferry("instance", "adopt", "--all")
        stage.numaferry("migrate", "db1", "--dest", stage.dest.name)
        stage.numaferry("topology", stage.dest.name)
        for number, proof in enumerate(looked_at, start=1):
            tell.prove(number, proof)
        story.crash(tell, number=len(looked_at) + 1)
        teller.line(f"{tell.shown} of {len(looked_at) + 1} proofs hold")
    finally:
        story.end(stage, keep=keep)
    return 0 if tell.shown == len(looked_at) + 1 else 1


def _simulated(sabotage: str, keep: bool) -> int:  # noqa: ARG001, FBT001 - one shape for both; nothing is kept
    teller = Teller("[simulated] ")
    teller.line("a fleet in memory: no hypervisor, no guest; the ledger and every decision are the real ones")
    with tempfile.TemporaryDirectory(prefix="numaferry-demo-") as folder:
        fleet = Fleet("demo", seed=1)
        try:
            return _Simulated(teller, fleet, Path(folder)).play(sabotage)
        finally:
            fleet.close()


class _Simulated:
    """The simulated story: the command line runs in this process, since the fleet lives in it."""

    def __init__(self, teller: Teller, fleet: Fleet, folder: Path) -> None:
        self._say = teller.line
        self._fleet = fleet
        self._folder = folder
        self._links = {"alpha": "ens4f0", "beta": "enp7s0"}

    def play(self, sabotage: str) -> int:
        """Adopt, move, be killed in the middle of a move, recover; compare what runs with what is claimed."""
        for name, link in self._links.items():
            self._fleet.add_host(name, casting.NOTATIONS[0], links=(link,))
        uuid = self._fleet.start_guest("alpha", self._guest())
        self._run("host", "import", str(self._hosts()))
        self._run("instance", "adopt", "--all")
        self._run("migrate", "db1", "--dest", "beta")
        self._run("topology", "beta")
        self._fleet.inject_named("client-dies-in-perform")
        with contextlib.suppress(ClientDied):
            self._run("migrate", "db1", "--dest", "alpha", expect=None)
        self._bury_controller()
        self._say("the controller died in the middle of the job (a fault of the simulation)")
        if sabotage == "1":
            self._say("SABOTAGE: the guest ends while nobody drives its move")
            self._fleet.end_guest("beta", uuid)
        self._run("migration", "recover", "2", expect=None)
        where = self._fleet.running_on(uuid)
        if where != ("alpha",):
            raise DemoFailed(f"db1 runs on {where or 'no host'}, expected alpha")
        self._say(f"PROOF 1: adopted and finished: db1 runs on {where[0]} and nowhere else")
        return 0

    def _bury_controller(self) -> None:
        """Let the ledger name a process that is no more: the simulated controller died, but this process lives on."""
        with Ferry.open(self._ledger_url) as ferry:
            gone = name_of(999_999_999, "1")
            now = ferry.ledger.migration(2)
            ferry.ledger.take_lease(2, gone, 30.0, grace_s=60.0, gone=now.controller, key="the simulation's")

    @property
    def _ledger_url(self) -> str:
        return f"sqlite:///{self._folder / 'ledger.sqlite'}"

    def _run(self, *words: str, expect: int | None = 0) -> None:
        from numaferry.cli import app  # noqa: PLC0415 - the other stories run the command line in processes of its own

        self._say(f"$ numaferry {shlex.join(words)}")
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                code = app.run(["--db", self._ledger_url, *words])
        finally:
            for line in said.getvalue().splitlines():
                self._say(f"  {line}")
        if expect is not None and code != expect:
            raise DemoFailed(f"`numaferry {shlex.join(words)}` ended with {code}, expected {expect}")

    def _guest(self) -> str:
        return domain_xml(
            GuestSpec(
                name="db1",
                image=GuestImage("tiny", Path("/share/tiny.elf")),
                serial=Path("/share/db1.serial"),
                domain_type="kvm",
                vcpus=2,
                cells=(GuestCell("0", casting.CELL_MIB, "0"), GuestCell("1", casting.CELL_MIB, "1")),
                vcpu_pins=casting.DB1_PINS,
                emulator_pin=",".join(casting.DB1_PINS.values()),
                hugepages=True,
                nics=(MacvtapNic(self._links["alpha"], casting.DB1_MAC),),
            )
        )

    def _hosts(self) -> Path:
        rows = [
            casting.host_row(name, self._fleet.uri(name), link, dedicated=casting.DEDICATED, shared=casting.SHARED)
            for name, link in self._links.items()
        ]
        path = self._folder / "hosts.toml"
        path.write_text("\n".join(rows), encoding="utf-8")
        return path

"""Two real hosts, one guest that moves to and fro between the tests, and controllers that are processes of their own.

`Stage.settled` is what every test asserts in the end, whatever went wrong in between.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import libvirt

from faults.controller import Order
from labs import clear_guests
from numaferry import virt
from numaferry.audit import update_available_resource
from numaferry.errors import HostError, LeaseHeld
from numaferry.lab.guests import SerialWatch, domain_xml
from numaferry.ledger import open_ledger
from numaferry.migration import controllers
from numaferry.migration.engine import MigrationEngine
from numaferry.migration.lease import LeasePolicy
from numaferry.model import CpuSet, HostConfig, Instance, MigrationStatus, Ownership
from numaferry.request import parse_domain
from numaferry.request.adoption import adopt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numaferry.lab.guests import GuestSpec
    from numaferry.lab.model import Lab, LabHost
    from numaferry.model import Migration

NAME = "db1"
#: A step on an emulated host of a busy machine takes half a minute.
PATIENCE_S = 240
#: So short that a controller which is stopped can be taken over within a test.
SHORT = LeasePolicy(ttl_s=0.8, longest_call_s=0.4)
SCRIPT = Path(__file__).parent / "controller.py"

#: What a host's kernel and libvirt's logs know of the guest, read past libvirt and past numaferry, by the shell's own
#: means where it can: under emulation every program that is started costs.
PROBE = f"""
echo qemus $(pgrep -fc 'guest={NAME[:-1]}[{NAME[-1]}],')
set -- /sys/class/net/macvtap*; [ -e "$1" ] || shift; echo macvtaps $#
echo starts $(grep -sh 'starting up libvirt version' /var/log/libvirt/qemu/{NAME}.log | wc -l)
p=$(cat /run/libvirt/qemu/{NAME}.pid 2>/dev/null) && for t in /proc/$p/task/*; do
  read -r name <$t/comm
  while read -r key value; do [ "$key" = Cpus_allowed_list: ] && echo "mask $value $name"; done <$t/status
done
true
"""


@attrs.frozen
class Kernel:
    """What a host's kernel says: processes of the guest, macvtaps, QEMUs ever started for it, masks of its vCPUs."""

    qemus: int
    macvtaps: int
    starts: int
    masks: Mapping[int, CpuSet]


def read_kernel(host: LabHost) -> Kernel:
    """Ask a host's kernel for the guest."""
    told = host.exec(PROBE).output
    counts = dict(re.findall(r"(?m)^(qemus|macvtaps|starts) (\d+)$", told))
    masks = re.findall(r"(?m)^mask (\S+) CPU (\d+)/", told)
    assert len(counts) == 3, told
    return Kernel(
        **{name: int(count) for name, count in counts.items()},
        masks={int(vcpu): CpuSet.parse(cpus) for cpus, vcpu in masks},
    )


def kill_libvirtd(host: LabHost) -> None:
    """Kill a host's libvirtd, which its first process starts again; returns when the new one answers."""
    was = host.exec("cat /run/libvirtd.pid").output
    host.exec("kill -9 $(cat /run/libvirtd.pid)")
    until(
        f"new libvirtd on {host.name}", lambda: host.exec("cat /run/libvirtd.pid").output != was and host.answers(), 60
    )


@contextlib.contextmanager
def cut(lab: Lab, one: str, other: str) -> Iterator[None]:
    """Cut two of the lab's machines off from each other, the outer one being called "controller"; nobody is told.

    Ports of a bridge that are isolated carry nothing to each other, and everything to those that are not.
    """
    ports = {"controller": f"{lab.lab_id}in", **{host.name: f"m{at}" for at, host in enumerate(lab.hosts, start=1)}}

    def isolate(word: str) -> None:
        for name in (one, other):
            link = ["ip", "-n", lab.netns, "link", "set", ports[name], "type", "bridge_slave", "isolated", word]
            subprocess.run(link, check=True)

    isolate("on")
    try:
        yield
    finally:
        isolate("off")


class Running:
    """A controller that was started: what it said, and the signals that it is given."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._said, self._complained = folder / "said", folder / "complained"
        with self._said.open("wb") as out, self._complained.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, str(SCRIPT)], stdin=subprocess.PIPE, stdout=out, stderr=err, cwd=folder
            )

    def order(self, order: Order) -> None:
        """Set it to work."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(attrs.asdict(order)).encode())
        self.process.stdin.close()

    @property
    def said(self) -> dict[str, Any]:
        """All that it said until now, in one."""
        whole = self._said.read_text(encoding="utf-8").rpartition("\n")[0]
        return {key: value for line in whole.splitlines() for key, value in json.loads(line).items()}

    @property
    def story(self) -> str:
        """What it said and complained of, for a failed assertion."""
        return f"{self._said.read_text()}\n{self._complained.read_text()}"

    @property
    def state(self) -> str:
        """The process's state, proc_pid_stat(5): T where it is stopped."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8")
        return stat.rpartition(")")[2].split()[0]

    def hit(self, timeout_s: float = PATIENCE_S) -> str:
        """Wait until the fault strikes and return where."""
        until("the fault", lambda: "hit" in self.said or self.process.poll() is not None, timeout_s)
        assert "hit" in self.said, self.story
        where: str = self.said["hit"]
        return where

    def ends(self, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        """Wait until it has ended by itself and return what it said."""
        self.process.wait(timeout_s)
        assert {"ended", "error"} & set(self.said), self.story
        return self.said

    def dies(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait until kill -9 has ended it."""
        assert self.process.wait(timeout_s) == -signal.SIGKILL, self.story

    def kill(self) -> None:
        """Kill it."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.dies()

    def stop(self) -> None:
        """Stop it."""
        os.kill(self.process.pid, signal.SIGSTOP)
        self.is_stopped()

    def is_stopped(self) -> None:
        """Wait until it is stopped."""
        until("a stopped controller", lambda: self.state == "T")

    def go_on(self) -> None:
        """Set it going again."""
        os.kill(self.process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


class Controllers:
    """Starts controllers. The next one loads its modules while the last one works: half of a cell's time otherwise."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._started = folder, 0
        self._spare = self._start()
        self._given: list[Running] = []

    def _start(self) -> Running:
        self._started += 1
        return Running(self._folder / f"controller-{self._started}")

    def next(self, order: Order) -> Running:
        """Give an order to a controller that is waiting for one."""
        given, self._spare = self._spare, self._start()
        self._given.append(given)
        given.order(order)
        return given

    def end(self) -> None:
        """End those that a test left running."""
        for one in self._given:
            one.close()
        self._given.clear()

    def close(self) -> None:
        """End all."""
        self.end()
        self._spare.close()


def until(what: str, told: Callable[[], Any], timeout_s: float = 30) -> Any:
    """Ask until the answer is true, and return it."""
    deadline = time.monotonic() + timeout_s
    while not (answer := told()):
        assert time.monotonic() < deadline, f"no {what} within {timeout_s:g} s"
        time.sleep(0.01)
    return answer


@attrs.frozen(kw_only=True)
class Play:
    """What differs between the labs: the guest, and each host's dedicated and shared CPUs."""

    lab: Lab
    #: The guest on its first host, whose dedicated CPUs it is pinned to.
    guest: GuestSpec
    sets: Mapping[str, tuple[str, str]]


class Stage:
    """Hosts, ledger, guest and controllers; `wait_s` and the like are those of the controllers that recover."""

    def __init__(self, play: Play, folder: Path, db: Path | None = None) -> None:
        self.play, self.lab, self.folder = play, play.lab, folder
        self.names = tuple(host.name for host in self.lab.hosts)
        self.hosts = {host.name: virt.connect(host.uri) for host in self.lab.hosts}
        self.db = str(db or folder / "ledger.sqlite")
        self.ledger = open_ledger(self.db)
        self.controllers = Controllers(folder)
        for host in self.lab.hosts:
            dedicated, shared = play.sets[host.name]
            config = HostConfig(
                cpu_dedicated_set=CpuSet.parse(dedicated),
                cpu_shared_set=CpuSet.parse(shared),
                reserved_host_memory_mb=64,
                physical_networks=(("physnet0", host.data_links[0]),),
                migration_address=host.ip,
            )
            self.ledger.add_host(host.name, self.hosts[host.name].facts(), config, confirmed=True)
        self._start_guest()
        self._adopt_guest()
        self.whole = True

    def _start_guest(self) -> None:
        clear_guests(self.lab)
        self.free_pages = {name: hypervisor.free_pages() for name, hypervisor in self.hosts.items()}
        self.watch = SerialWatch.of_new(self.lab.share / self.play.guest.serial.name)
        connection = libvirt.open(self.lab.hosts[0].uri)
        try:
            domain = connection.defineXML(domain_xml(self.play.guest))
            domain.create()
            self.uuid: str = domain.UUIDString()
        finally:
            connection.close()
        self.watch.until_more()

    def _adopt_guest(self) -> None:
        host = self.ledger.host(self.names[0])
        needs = parse_domain(self.hosts[host.name].domain(self.uuid).xml)
        found = adopt(needs, host.config.cpu_dedicated_set, host.facts.topology)
        assert found.flavor is not None
        claim = self.ledger.claim_instance(
            Instance(self.uuid, NAME, host.name, found.flavor, found.request, found.numa_topology, vifs=needs.vifs)
        )
        self.hosts[host.name].set_ownership(self.uuid, Ownership(self.ledger.ledger_id, claim.id))

    def close(self) -> None:
        """End the controllers, and a job that a test left; take the guest away."""
        self.controllers.close()
        for hypervisor in self.hosts.values():
            with contextlib.suppress(HostError):
                hypervisor.abort_job(self.uuid)
            hypervisor.close()
        self.ledger.close()
        clear_guests(self.lab)

    # where it is, and where it goes

    @property
    def source(self) -> str:
        """The host that the guest is on, by the ledger."""
        return self.ledger.instance(NAME).host

    @property
    def dest(self) -> str:
        """The other one."""
        return next(name for name in self.names if name != self.source)

    # controllers

    def begin(self, **order: Any) -> Running:
        """Let a controller move the guest to the other host."""
        return self.controllers.next(Order(db=self.db, instance=NAME, dest=self.dest, **order))

    def engine(self, **words: Any) -> MigrationEngine:
        """A fresh controller, of this process."""
        policy = words.pop("policy", LeasePolicy(ttl_s=30.0, longest_call_s=60.0))
        return MigrationEngine(
            self.ledger,
            lambda record: virt.connect(record.uri),
            lambda host: update_available_resource(self.ledger, host, self.hosts[host]),
            **{"poll_s": 0.05, "settle_s": 0.2, "wait_s": 0.5, "waits": 60, "lease": policy, **words},
        )

    def last(self) -> Migration:
        """Return the migration that was begun last."""
        return self.ledger.migrations()[-1]

    def recovered(self, **engine: Any) -> Migration:
        """What a fresh controller does with the last migration, whose controller's process is no more."""
        migration = self.last()
        assert controllers.is_dead(migration.controller) or not migration.in_progress, migration.controller
        return self.engine(**engine).recover(migration.id)

    def taken_over(self, policy: LeasePolicy) -> Migration:
        """What a fresh controller does with one whose controller still lives: it waits for lease and longest call."""
        number = self.last().id
        engine = self.engine(policy=policy)
        began, refused = time.monotonic(), 0
        while True:
            try:
                ended = engine.recover(number)
            except LeaseHeld:
                refused += 1
                assert time.monotonic() - began < policy.ttl_s + policy.longest_call_s + 10
                time.sleep(0.05)
            else:
                assert refused, "it was taken over although its lease held"
                return ended

    def half_way(self, timeout_s: float = PATIENCE_S) -> str:
        """Wait until libvirt has copied some of the guest's memory and not all of it; returns the migration's step."""
        source = self.hosts[self.source]

        def some() -> bool:
            job = source.job(self.uuid)
            return job is not None and job.memory_processed_bytes > 0 and job.memory_remaining_bytes > 2 << 20

        until("job half-way", some, timeout_s)
        return self.last().step

    def stop(self, controller: Running) -> None:
        """Stop a controller, and not in a transaction: there it would keep everybody else from writing to SQLite."""
        while True:
            controller.stop()
            with self.sql(timeout=0.5) as connection, contextlib.suppress(sqlite3.OperationalError):
                connection.execute("BEGIN IMMEDIATE")
                connection.rollback()
                return
            controller.go_on()
            time.sleep(0.05)

    # what must hold

    def said(self) -> list[str]:
        """Return the events of the last migration."""
        return [event.sentence for event in self.ledger.events(migration=self.last().id)]

    def said_once(self, beginning: str) -> bool:
        """Tell whether exactly one event of the last migration begins so."""
        return len([sentence for sentence in self.said() if sentence.startswith(beginning)]) == 1

    @contextlib.contextmanager
    def sql(self, timeout: float = 30.0) -> Iterator[sqlite3.Connection]:
        """Raw SQL, past the ledger's own code."""
        with contextlib.closing(sqlite3.connect(self.db, timeout)) as connection:
            yield connection

    def promises(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return what the ledger promises, and what it tells of migrations; not what audits refresh."""
        tables = ("instance", "claim", "claim_cpu", "claim_cpu_link", "claim_amount", "migration", "capacity")
        with self.sql() as connection:
            rows = {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables}  # noqa: S608
            rows["event"] = connection.execute("SELECT * FROM event WHERE migration_id IS NOT NULL").fetchall()
        return rows

    def picture(self) -> dict[str, Any]:
        """Return everything that a controller could change: promises, domains, jobs, and QEMUs that were started."""
        hosts = {
            host.name: (
                self.hosts[host.name].domain(self.uuid),
                self.hosts[host.name].job(self.uuid),
                read_kernel(host),
            )
            for host in self.lab.hosts
        }
        return {**self.promises(), **hosts}

    def settled(self, host: str) -> None:
        """Assert what must hold once all is over: the guest lives on `host` only, unharmed, and nothing is left."""
        story = "\n".join(self.said())
        assert [one for one in self.ledger.migrations() if one.in_progress] == [], story
        self._guest_is_well(host, story)
        self._promise_is_kept(host, story)
        for name in self.names:
            assert self.hosts[name].job(self.uuid) is None, f"a job is left on {name}"
            findings = update_available_resource(self.ledger, name, self.hosts[name]).findings
            assert findings == (), findings
        self.whole = True

    def _guest_is_well(self, host: str, story: str) -> None:
        kernels = {one.name: read_kernel(one) for one in self.lab.hosts}
        assert {name: kernel.qemus for name, kernel in kernels.items()} == {
            name: int(name == host) for name in self.names
        }, story
        assert {name: kernel.macvtaps for name, kernel in kernels.items()} == {
            name: int(name == host) for name in self.names
        }, story
        seen = {name: hypervisor.domain(self.uuid) for name, hypervisor in self.hosts.items()}
        assert [name for name, domain in seen.items() if domain is not None] == [host], story
        assert seen[host].state == "running", story
        assert self.watch.until_more(3).intact, self.watch.report
        pinned = dict(self.ledger.instance(NAME).numa_topology.cpu_pinning)
        assert kernels[host].masks == {vcpu: CpuSet.of([cpu]) for vcpu, cpu in pinned.items()}, story

    def _promise_is_kept(self, host: str, story: str) -> None:
        instance = self.ledger.instance(NAME)
        assert (instance.host, instance.migration_context) == (host, None), story
        with self.sql() as connection:
            [(claim, where)] = connection.execute(
                "SELECT claim.id, host.name FROM claim JOIN host ON host.id = host_id"
            ).fetchall()
            assert where == host, story
            cpus = {cpu for (cpu,) in connection.execute("SELECT cpu FROM claim_cpu")}
            linked = {cpu for (cpu,) in connection.execute("SELECT cpu FROM claim_cpu_link")}
            assert cpus == linked == {cpu for _, cpu in instance.numa_topology.cpu_pinning}
            off = connection.execute(
                "SELECT host_id, cell, resource, used FROM capacity AS pool WHERE used <> ("
                "SELECT coalesce(sum(amount), 0) FROM claim_amount AS one WHERE one.host_id = pool.host_id"
                " AND one.resource = pool.resource AND pool.cell IN (one.cell, -1))"
            ).fetchall()
            assert off == [], story
        mark = self.hosts[host].domain(self.uuid).ownership
        assert mark == Ownership(self.ledger.ledger_id, claim), story

    def ended(self, status: MigrationStatus) -> None:
        """Assert how the last migration ended."""
        assert self.last().status is status, "\n".join(self.said())

    def is_refused_and_changes_nothing(self, stale: Running) -> None:
        """Set a stopped controller going: it finds out that it was taken over, and nothing is changed any more."""
        before = self.picture()
        stale.go_on()
        assert stale.ends()["error"] == "taken-over"
        now = self.picture()
        assert [(what, before[what], now[what]) for what in before if before[what] != now[what]] == []

"""numaferry as an operator has it: the command line in processes of its own, virsh beside it, real guests between."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve, frozen
from lxml import etree

from labs import clear_guests
from numaferry.lab.guests import GuestCell, GuestSpec, MacvtapNic, SerialWatch, domain_xml, put_in_share
from numaferry.ledger import open_ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numaferry.lab.model import Lab, LabHost

MAC = "52:54:00:00:0b:01"

#: On the two CPUs of the smallest machine: what is dedicated on one host is shared on the other, so a guest that moves
#: must change every pin it has.
SETS = {"alpha": ("0", "1"), "beta": ("1", "0")}


@frozen
class Said:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)


class Guest:
    """A running lab guest: its names, its XML as it was started, and the watch over its counter."""

    def __init__(self, spec: GuestSpec, xml: str, watch: SerialWatch) -> None:
        self.name, self.spec, self.xml, self.watch, self.uuid = spec.name, spec, xml, watch, ""

    def goes_on(self) -> bool:
        """Wait for more counts; tell whether this is one unharmed life since its start."""
        return self.watch.until_more().intact


class Operator:
    """Runs commands against a lab, with a ledger of its own that has imported both hosts."""

    def __init__(self, lab: Lab, folder: Path, sets: Mapping[str, tuple[str, str]]) -> None:
        self.lab, self.folder, self.sets = lab, folder, sets
        self.db = folder / "ledger.sqlite"
        self.environment = {**os.environ, "NUMAFERRY_DB": str(self.db), "XDG_STATE_HOME": str(folder / "state")}

    # commands

    def begin(self, *words: str, db: Path | None = None) -> subprocess.Popen[str]:
        """Start a command and leave it running."""
        environment = self.environment | ({"NUMAFERRY_DB": str(db)} if db else {})
        command = [sys.executable, "-m", "numaferry", *words]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder
        )

    def run(self, *words: str, code: int = 0, timeout_s: float = 240, db: Path | None = None) -> Said:
        """Run a command to its end; it must end with `code`."""
        with self.begin(*words, db=db) as process:
            try:
                out, err = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        print(f"$ numaferry {' '.join(words)}  -> {process.returncode}\n{err}{out[:3000]}")  # noqa: T201  (shown on failure)
        assert process.returncode == code, f"{' '.join(words)}: {process.returncode}\n{out}\n{err}"
        return Said(process.returncode, out, err)

    def told(self, *words: str, code: int = 0) -> Any:
        """Run a command with `-f json` and return what it told."""
        return self.run(*words, "-f", "json", code=code).told

    def python(self, script: str, *words: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a Python script in a process of its own."""
        return subprocess.run(
            [sys.executable, "-c", script, *words],
            env=self.environment, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=self.folder,
        )  # fmt: skip

    def virsh(self, host: str, *words: str) -> str:
        """Run virsh against a host of the lab; it must succeed."""
        uri = self.lab.host(host).uri
        done = subprocess.run(["virsh", "-q", "-c", uri, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"virsh {' '.join(words)} on {host}: {done.stderr}"
        return done.stdout

    # hosts and guests

    def entry(self, host: LabHost) -> str:
        """Return the host's table in a hosts file."""
        dedicated, shared = self.sets[host.name]
        return (
            f'[[host]]\nname = "{host.name}"\nuri = "{host.uri}"\nmigration_address = "{host.ip}"\n'
            f'cpu_dedicated_set = "{dedicated}"\ncpu_shared_set = "{shared}"\nreserved_host_memory_mb = 64\n'
            f'physical_networks = {{ physnet0 = "{host.data_links[0]}" }}\n'
        )

    def import_hosts(self, *words: str, code: int = 0, db: Path | None = None) -> Said:
        """Write the hosts file and import it."""
        path = self.folder / "hosts.toml"
        path.write_text("\n".join(map(self.entry, self.lab.hosts)), encoding="utf-8")
        return self.run("host", "import", str(path), *words, code=code, db=db)

    def start(
        self,
        name: str = "db1",
        host: str = "alpha",
        *,
        persistent: bool = True,
        edit: Callable[[etree._Element], None] = lambda _root: None,
        **changes: Any,
    ) -> Guest:
        """Start a guest: by default one cell of 48 MiB, pinned to the host's dedicated CPU, a macvtap on its link."""
        where = self.lab.host(host)
        dedicated, shared = self.sets[host]
        spec = GuestSpec(
            name=name,
            image=put_in_share(self.lab, "tiny"),
            serial=where.share / f"{name}.serial",
            cells=(GuestCell("0", 48, "0"),),
            vcpu_pins={0: dedicated},
            emulator_pin=shared,
            nics=(MacvtapNic(where.data_links[0], MAC),),
        )
        spec = evolve(spec, **changes)
        root = etree.fromstring(domain_xml(spec))
        edit(root)
        guest = Guest(
            spec, etree.tostring(root, encoding="unicode"), SerialWatch.of_new(self.lab.share / f"{name}.serial")
        )
        path = self.folder / f"{name}.xml"
        path.write_text(guest.xml, encoding="utf-8")
        if persistent:
            self.virsh(host, "define", str(path))
            self.virsh(host, "start", name)
        else:
            self.virsh(host, "create", str(path))
        guest.uuid = self.virsh(host, "domuuid", name).strip()
        guest.watch.until_more()
        return guest

    def xml(self, host: str, name: str, *words: str) -> etree._Element:
        """Return a domain's XML as virsh shows it."""
        return etree.fromstring(self.virsh(host, "dumpxml", name, *words))

    def names(self, host: str) -> list[str]:
        """Return every domain that the host knows, running or not."""
        return self.virsh(host, "list", "--all", "--name").split()

    def running(self, name: str) -> list[str]:
        """Return the hosts on which a domain of this name has a QEMU process."""
        return [host.name for host in self.lab.hosts if name in self.virsh(host.name, "list", "--name").split()]

    def macvtaps(self, host: str) -> int:
        """Count the macvtaps on a host."""
        return len(self.lab.host(host).exec("ip -o link show type macvtap").output.splitlines())

    # what must hold

    def settled(self, guest: Guest, host: str) -> None:
        """Assert that the guest lives on this host only, unharmed, and nothing of any move is left anywhere."""
        assert self.running(guest.name) == [host]
        assert guest.goes_on(), guest.watch.report
        others = [other.name for other in self.lab.hosts if other.name != host]
        assert [other for other in others if guest.name in self.names(other)] == []
        assert [self.macvtaps(other) for other in others] == [0 for _ in others]
        with contextlib.closing(open_ledger(str(self.db))) as ledger:
            assert [move for move in ledger.migrations() if move.in_progress] == []
            assert ledger.instance(guest.name).host == host
            names = [other.name for other in self.lab.hosts]
            assert [
                name for name in names for one in ledger.view(name).holdings if one.instance_name == guest.name
            ] == [host]
        mark = self.xml(host, guest.name).find("metadata/{*}guest")
        assert mark is not None, "the guest bears its ledger's mark"
        assert mark.get("migration") is None, "no migration is left in the guest's mark"
        assert self.told("audit")["findings"] == []

    def masks(self, host: str, guest: Guest) -> dict[str, str]:
        """Return the kernel's affinity mask of each thread of a guest's QEMU, by the thread's name."""
        script = (
            f"p=$(cat /run/libvirt/qemu/{guest.name}.pid); "
            "for t in /proc/$p/task/*; do "
            "echo $(tr ' ' _ <$t/comm) $(awk '/^Cpus_allowed_list/{print $2}' $t/status); done"
        )
        rows = self.lab.host(host).exec(script).output.split("\n")
        return dict(row.split() for row in rows if row.strip())

    def ledger_bytes(self) -> bytes:
        """Return everything that the ledger keeps on disk."""
        return b"".join(path.read_bytes() for path in sorted(self.folder.glob("ledger.sqlite*")))


@pytest.fixture
def operator(namespaces_lab: Lab, tmp_path: Path) -> Iterator[Operator]:
    """An operator on the namespaces lab, hosts imported and confirmed; no guest yet, and none left behind."""
    made = Operator(namespaces_lab, tmp_path, SETS)
    made.import_hosts()
    yield made
    clear_guests(namespaces_lab)


@pytest.fixture
def operator_class() -> type[Operator]:
    """Return the class itself, for another lab."""
    return Operator

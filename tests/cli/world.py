"""A small simulated world for tests of the command line: two hosts, guests by a few words, and `run`."""

import json
import sqlite3
from pathlib import Path

import attrs
from click.testing import CliRunner

from numaferry.cli import app
from numaferry.virt.simulated import Fleet

TOPOLOGY = "2 cells x 2 cores x 2 threads, 1536M, 2M:128"
HOSTS_TOML = """
[[host]]
name = "alpha"
uri = "sim://cli/alpha"
cpu_dedicated_set = "2-7"
cpu_shared_set = "0-1"
reserved_host_memory_mb = 256
physical_networks = { physnet0 = "ens3" }

[[host]]
name = "beta"
uri = "sim://cli/beta"
cpu_dedicated_set = "2-7"
cpu_shared_set = "0-1"
reserved_host_memory_mb = 256
physical_networks = { physnet0 = "enp7s0" }
"""


def guest_xml(name, pins, nodes, *, memory_mib=64, emulator="0-1", metadata="", link="ens3"):
    """A guest with one vCPU and one cell per pin: pins[i] is a host CPU, nodes[i] its memory's host cell."""
    count = len(pins)
    vcpupins = "".join(f"<vcpupin vcpu='{vcpu}' cpuset='{cpu}'/>" for vcpu, cpu in enumerate(pins))
    memnodes = "".join(f"<memnode cellid='{cell}' mode='strict' nodeset='{node}'/>" for cell, node in enumerate(nodes))
    cells = "".join(f"<cell id='{i}' cpus='{i}' memory='{memory_mib}' unit='MiB'/>" for i in range(count))
    mac = "52:54:00:00:00:" + f"{sum(map(ord, name)) % 256:02x}"
    return (
        f"<domain type='kvm'><name>{name}</name><metadata>{metadata}</metadata>"
        f"<memory unit='MiB'>{memory_mib * count}</memory>"
        "<memoryBacking><hugepages><page size='2048' unit='KiB'/></hugepages></memoryBacking>"
        f"<vcpu placement='static'>{count}</vcpu>"
        f"<cputune>{vcpupins}<emulatorpin cpuset='{emulator}'/></cputune>"
        f"<numatune><memory mode='strict' nodeset='{','.join(map(str, sorted(set(nodes))))}'/>{memnodes}</numatune>"
        "<os><type arch='x86_64' machine='q35'>hvm</type></os>"
        f"<cpu><numa>{cells}</numa></cpu>"
        f"<devices><interface type='direct'><mac address='{mac}'/><source dev='{link}' mode='bridge'/></interface>"
        f"<graphics type='vnc' passwd='hunter2'/></devices></domain>"
    )


FLOATER = (
    "<domain type='kvm'><name>web</name><memory unit='MiB'>64</memory><vcpu placement='static'>2</vcpu>"
    "<os><type arch='x86_64' machine='q35'>hvm</type></os><devices/></domain>"
)
NOVA = (
    "<nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'>"
    "<nova:name>cloudy</nova:name></nova:instance>"
)


@attrs.define
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@attrs.define
class World:
    """A fleet, a ledger's path, and the command line on both."""

    fleet: Fleet
    folder: object

    @property
    def db(self):
        return str(self.folder / "ledger.sqlite")

    def run(self, *words):
        """Run the command line in this process, as the console script does."""
        codes = []
        with CliRunner().isolation() as (out, err, _):
            codes.append(app.run(["--db", self.db, *words]))
            return Ran(codes[0], out.getvalue().decode(), err.getvalue().decode())

    def ok(self, *words):
        """Run a command that must succeed, and return what it printed."""
        ran = self.run(*words)
        assert ran.code == 0, ran.err
        return ran.out

    def told(self, *words):
        """Run a command with -f json that must succeed, and return the values."""
        return json.loads(self.ok(*words, "-f", "json"))

    def toml(self, text=HOSTS_TOML, name="hosts.toml"):
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    def manage(self, *names):
        """Import both hosts and adopt these guests, or all."""
        self.ok("host", "import", self.toml())
        self.ok("instance", "adopt", *(names or ("--all",)))

    def reality(self):
        """All that is true of hosts and ledger, to be compared before and after a command that must change nothing."""
        xml = {
            (host.name, domain.uuid): (domain.state, domain.xml)
            for host in self.fleet.hosts.values()
            for domain in self.fleet.hypervisor(host.name).domains()
        }
        return xml, self.rows()

    def rows(self):
        """Every row of the ledger but its own; empty where there is no ledger yet."""
        if not Path(self.db).exists():
            return {}
        connection = sqlite3.connect(f"file:{self.db}?mode=ro", uri=True)
        try:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            rows = {name: connection.execute(f"SELECT * FROM {name}").fetchall() for (name,) in tables}  # noqa: S608
            return {name: found for name, found in rows.items() if found and name != "ledger"}
        except sqlite3.DatabaseError:
            return {"no": "database"}
        finally:
            connection.close()

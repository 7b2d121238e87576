"""The quick start of the README is run, command by command, on a simulated fleet, and prints what the README shows.

The README's URIs stand for hosts of the fleet. Of its output each line has to be printed by the command above it,
blanks and rules of tables aside; `...` stands for anything, and durations are whatever was measured.
"""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from numaferry.cli import app
from numaferry.model import CpuSet
from numaferry.virt.simulated import Fleet

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK_START = README[README.index("## On your own hosts") : README.index("## Three words")]
TOPOLOGY = "2 cells x 2 cores x 2 threads, 1536M, 2M:128"
LINKS = {"alpha": "ens3", "beta": "enp7s0"}

_SPEC = importlib.util.spec_from_file_location("world_of_docs", ROOT / "tests" / "cli" / "world.py")
world_of_docs = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(world_of_docs)


def three_in_one_cell():
    """A guest that needs three dedicated CPUs of one cell: db1's XML with other pins."""
    xml = world_of_docs.guest_xml("db2", [4, 5, 6], [1], memory_mib=64, emulator="4-6")
    # guest_xml gives each pin a cell; this one has all three vCPUs in the one
    xml = re.sub(r"<cell id='0'.*?</numa>", "<cell id='0' cpus='0-2' memory='64' unit='MiB'/></numa>", xml)
    return re.sub(r"(<memory unit='MiB'>)\d+", r"\g<1>64", xml)


def session():
    """(command line, lines shown below it) of the quick start, in order."""
    shown = []
    blocks = re.findall(r"(?ms)^```([a-z]*)\n(.*?)^```$", QUICK_START)
    for block in (text for language, text in blocks if not language):
        for line in block.splitlines():
            if line.startswith("$ "):
                shown.append((line.removeprefix("$ "), []))
            else:
                shown[-1][1].append(line)
    return shown


def plain(line):
    """A line without the layout of tables, and with every duration alike."""
    return re.sub(r"\d+(\.\d+)? (ms|s)\b", "N ms", " ".join(line.replace("─", "").split()))


@pytest.fixture
def fleet():
    fleet = Fleet("docs", seed=1)
    for name, link in LINKS.items():
        fleet.add_host(name, TOPOLOGY, links=(link,))
    fleet.start_guest("alpha", world_of_docs.guest_xml("db1", [2, 6], [0, 1], emulator="2,6"))
    fleet.start_guest("beta", world_of_docs.guest_xml("noisy1", [2, 6], [0, 1], emulator="2,6", link="enp7s0"))
    yield fleet
    fleet.close()


def hosts_toml():
    """The README's own entry, and the same for the other host."""
    (alpha,) = re.findall(r"(?ms)^```toml\n(.*?)^```$", QUICK_START)
    return alpha + alpha.replace("alpha", "beta").replace("ens3", LINKS["beta"])


def to_fleet(text):
    """Put the fleet's URIs in place of the README's."""
    return re.sub(r"qemu\+\w+://(?:root@)?(alpha|beta)[\w.]*/system", r"sim://docs/\1", text)


def test_the_quick_start_prints_what_it_shows(fleet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "240")
    Path("hosts.toml").write_text(to_fleet(hosts_toml()), encoding="utf-8")

    def run(*words):
        with CliRunner().isolation() as (out, err, _):
            code = app.run(["--db", "ledger.sqlite", *words])
            return code, (out.getvalue() + err.getvalue()).decode()

    def before(command):
        """What has happened meanwhile on the hosts, by the README's story."""
        if command.startswith("numaferry explain"):
            fleet.start_guest("alpha", three_in_one_cell())
            assert run("instance", "adopt", "db2", "--host", "alpha")[0] == 0
        if command == "numaferry audit":
            (db1,) = [domain.uuid for domain in fleet.hypervisor("beta").domains() if domain.name == "db1"]
            fleet.set_kernel_mask("beta", db1, 0, CpuSet.of([2]))

    assert len(session()) >= 10
    for command, lines in session():
        before(command)
        code, said = run(*shlex.split(to_fleet(command))[1:])
        # the audit that finds something wrong says so by its exit code too
        assert code == (command == "numaferry audit"), f"{command}\n{said}"
        printed = [plain(line) for line in said.splitlines()]
        for line in lines:
            wanted = re.escape(plain(to_fleet(line))).replace(r"\.\.\.", ".*")
            assert any(re.search(wanted, one) for one in printed), f"{command}\nshown: {line}\nprinted:\n{said}"

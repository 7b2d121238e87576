"""The hosts lab as libvirt and its own hosts see it."""

import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from numaferry.errors import Conflict
from numaferry.lab import capabilities, control, kernel
from numaferry.lab.access import SerialAccess
from numaferry.lab.capture import count_frames_by_link
from numaferry.lab.journal import Journal
from numaferry.lab.model import Lab, LabHost, load
from numaferry.lab.notation import parse
from numaferry.model.cpuset import CpuSet

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(400)]


def virsh(host: LabHost, *words: str) -> str:
    done = subprocess.run(
        ["virsh", "--connect", host.uri, *words], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def cells_of(host: LabHost) -> list[ET.Element]:
    return ET.fromstring(virsh(host, "capabilities")).findall("./host/topology/cells/cell")  # noqa: S314 - our own libvirtd


@pytest.mark.parametrize("index", [0, 1])
def test_libvirt_sees_the_topology_as_written(hosts_lab: Lab, index: int) -> None:
    host = hosts_lab.hosts[index]
    wanted = parse(host.notation).topology.cells
    seen = cells_of(host)
    assert len(seen) == len(wanted)
    for cell, written in zip(seen, wanted, strict=True):
        cpus = cell.findall("./cpus/cpu")
        assert CpuSet.of(int(cpu.get("id", "")) for cpu in cpus) == written.cpus
        assert {CpuSet.parse(cpu.get("siblings", "")) for cpu in cpus} == set(written.siblings)
        assert {cpu.get("socket_id") for cpu in cpus} == {str(written.id)}
        distances = {
            (int(each.get("id", "")), int(each.get("value", ""))) for each in cell.findall("./distances/sibling")
        }
        assert distances == set(written.distances)
        pages = {int(each.get("size", "")): int(each.text or "") for each in cell.findall("./pages")}
        assert pages[2048] == sum(pool.total for pool in written.pages if pool.size_kib == 2048)
        # the kernel keeps some of the first cells for itself
        assert written.memory_kib * 0.8 < int(cell.findtext("./memory", "")) <= written.memory_kib


def test_pages_set_aside_are_free_in_each_cell(hosts_lab: Lab) -> None:
    for host in hosts_lab.hosts:
        for number, count in enumerate(parse(host.notation).pages_2m):
            assert (
                f"2048KiB: {count}\n" in virsh(host, "freepages", "--cellno", str(number), "--pagesize", "2048") + "\n"
            )


def test_hosts_have_different_names_and_uuids(hosts_lab: Lab) -> None:
    assert len({ET.fromstring(virsh(host, "capabilities")).findtext("./host/uuid") for host in hosts_lab.hosts}) == 2  # noqa: S314 - our own libvirtd
    assert [host.exec("hostname").output.strip() for host in hosts_lab.hosts] == ["alpha", "beta"]


def test_hosts_reach_each_other_by_name_for_peer_to_peer(hosts_lab: Lab) -> None:
    one, other = hosts_lab.hosts
    assert one.exec(f"virsh -c qemu+tcp://{other.name}/system hostname", 60).output.strip() == "beta"


def test_the_network_is_there_under_its_own_names(hosts_lab: Lab) -> None:
    for host in hosts_lab.hosts:
        for link in (*host.data_links, *host.bridges):
            assert host.exec(f"cat /sys/class/net/{link}/flags").output.strip() in ("0x1003", "0x1303"), link
    assert hosts_lab.hosts[0].data_links != hosts_lab.hosts[1].data_links


def test_the_common_folder_is_one(hosts_lab: Lab) -> None:
    one, other = hosts_lab.hosts
    assert one.exec(f"echo hello > {one.share}/note").exit_code == 0
    assert other.exec(f"echo again >> {other.share}/note; cat {other.share}/note").output == "hello\nagain\n"
    assert (hosts_lab.share / "note").read_text(encoding="utf-8") == "hello\nagain\n"


def test_what_a_host_writes_elsewhere_does_not_reach_this_machine(hosts_lab: Lab) -> None:
    assert hosts_lab.hosts[0].exec("echo x > /etc/numaferry-was-here").exit_code == 0
    assert not Path("/etc/numaferry-was-here").exists()


def test_nested_virtualization_is_there(hosts_lab: Lab) -> None:
    if hosts_lab.accelerator == "tcg":
        assert [host.exec("test -c /dev/kvm").exit_code for host in hosts_lab.hosts] == [0, 0]


def test_frames_are_counted_on_the_port_of_the_host_that_sent_them(hosts_lab: Lab) -> None:
    host = hosts_lab.hosts[1]
    link = host.data_links[0]
    mac = host.exec(f"cat /sys/class/net/{link}/address").output.strip()
    command = (
        f"ip addr add 192.0.2.9/30 dev {link}; busybox arping -c 2 -w 3 -I {link} 192.0.2.10; ip addr flush dev {link}"
    )
    sender = threading.Timer(0.5, host.exec, [command])
    sender.start()
    counts = count_frames_by_link(hosts_lab, 5)
    sender.join()
    assert counts["d2"][mac] >= 2
    assert mac not in counts["d1"]


def test_exec_tells_exit_code_and_both_outputs(hosts_lab: Lab) -> None:
    result = hosts_lab.hosts[0].exec("echo out; echo err >&2; exit 3")
    assert (result.exit_code, sorted(result.output.split())) == (3, ["err", "out"])


def test_exec_ends_a_command_that_takes_too_long_and_its_children(hosts_lab: Lab) -> None:
    host = hosts_lab.hosts[0]
    result = host.exec("echo before; sleep 4711 & sleep 4711", 1)
    assert (result.exit_code, result.output) == (124, "before\n")
    assert host.exec("ps -o args | grep -c '[s]leep 4711'").output.strip() == "0"


def test_exec_carries_large_outputs(hosts_lab: Lab) -> None:
    assert hosts_lab.hosts[0].exec("seq 100000").output == "".join(f"{number}\n" for number in range(1, 100001))


def test_exec_serves_many_at_once(hosts_lab: Lab) -> None:
    results: dict[int, str] = {}

    def ask(number: int) -> None:
        results[number] = hosts_lab.hosts[number % 2].exec(f"echo {number}").output

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: f"{number}\n" for number in range(8)}


CLIENT = """
import sys
from pathlib import Path
from numaferry.lab.channel import request
request(Path(sys.argv[1]), "seq 50000; sleep 4712", 300)
"""


def test_exec_goes_on_after_a_client_was_killed(hosts_lab: Lab) -> None:
    host = hosts_lab.hosts[0]
    assert isinstance(host.access, SerialAccess)
    client = subprocess.Popen([sys.executable, "-c", CLIENT, str(host.access.socket)])
    time.sleep(2)
    client.kill()
    client.wait()
    began = time.monotonic()
    assert host.exec("echo alive").output == "alive\n"
    assert time.monotonic() - began < 20
    assert host.exec("ps -o args | grep -c '[s]leep 4712'").output.strip() == "0"


def test_the_exec_channel_is_for_its_owner_alone(hosts_lab: Lab) -> None:
    for host in hosts_lab.hosts:
        assert isinstance(host.access, SerialAccess)
        assert host.access.socket.stat().st_mode & 0o777 == 0o600
    assert (hosts_lab.directory / "run").stat().st_mode & 0o777 == 0o700


def test_libvirts_capabilities_are_kept_for_the_next_lab(hosts_lab: Lab) -> None:
    found = kernel.cached()
    assert found is not None
    kept = capabilities.kept(found, hosts_lab.accelerator)
    assert kept
    inside = hosts_lab.hosts[0].exec("cd /var/cache/libvirt/qemu/capabilities && sha256sum *.xml | cut -c1-64").output
    outside = subprocess.run(["sha256sum", *kept], capture_output=True, text=True, check=True).stdout
    assert sorted(inside.split()) == sorted(line[:64] for line in outside.splitlines())


def test_up_again_is_the_same_lab_and_other_hosts_are_refused(hosts_lab: Lab) -> None:
    notations = tuple(host.notation for host in hosts_lab.hosts)
    again = control.up("hosts", name=hosts_lab.name, directory=hosts_lab.directory, notations=notations)
    assert again == hosts_lab == load(hosts_lab.directory)
    assert control.status(hosts_lab.name, hosts_lab.directory).state == "up"
    with pytest.raises(Conflict, match="another lab is up"):
        control.up("hosts", name=hosts_lab.name, directory=hosts_lab.directory, notations=notations[::-1])


SMALL = "1 cells x 1 cores, 1G"
UP = """
import sys
from pathlib import Path
from numaferry.lab import up
hosts = [sys.argv[2]] * 2
up("hosts", name="crash", directory=Path(sys.argv[1]), notations=hosts, say=lambda line: print(line, flush=True))
"""


def interrupted_up(directory: Path, stage: str, number: signal.Signals) -> None:
    """Begin to boot a lab and send a signal to the process as soon as it tells of `stage`."""
    process = subprocess.Popen(
        [sys.executable, "-c", UP, str(directory), SMALL], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if stage in line:
            process.send_signal(number)
            break
    process.communicate(timeout=60)


@pytest.mark.parametrize("stage", ["booting", "beta: started"])
def test_nothing_is_left_when_up_was_killed_and_down_came_after(
    tmp_path: Path, stage: str, hosts_lab: Lab, traces: Callable[..., list[str]]
) -> None:
    where = tmp_path / "lab"
    interrupted_up(where, stage, signal.SIGKILL)
    assert control.status("crash", where).state == "remains"
    lab_id = next(each.facts["name"] for each in Journal(where / "journal.jsonl").outstanding() if each.kind == "link")[
        :8
    ]
    assert traces(lab_id, str(where))
    assert control.down(name="crash", directory=where) is True
    assert traces(lab_id, str(where)) == []
    assert not where.exists()
    assert control.down(name="crash", directory=where) is False
    # the lab beside it was not touched
    assert all(host.alive for host in hosts_lab.hosts)


def test_an_interrupted_up_cleans_up_itself_and_keeps_the_logs(
    tmp_path: Path, traces: Callable[..., list[str]]
) -> None:
    where = tmp_path / "lab"
    interrupted_up(where, "beta: started", signal.SIGINT)
    assert traces(str(where)) == []
    assert [path.name for path in where.iterdir()] == ["failed"]
    # a QEMU that was interrupted that early may not have opened its console yet
    assert {path.name for path in (where / "failed").iterdir()} >= {"alpha-qemu.log", "beta-qemu.log"}

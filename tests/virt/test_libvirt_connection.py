"""Connections: what goes wrong is told in our words, once, with libvirt's message and without secrets.

`test:///default` is libvirt's own in-process host; no daemon is needed.
"""

import re
import socket
import threading
import time

import pytest

from numaferry import virt
from numaferry.errors import HostUnreachable, HypervisorError, InvalidInput, NotFound, TooOld
from numaferry.model import CpuSet, DomainState, Ownership, Vif, VifKind, XmlKind
from numaferry.virt.libvirt import connection as connections
from numaferry.virt.libvirt.connection import libvirt, redact, without_prompts
from numaferry.virt.libvirt.discovery import read_facts
from numaferry.virt.libvirt.driver import LibvirtHypervisor

TEST_HOST = "test:///default"


@pytest.fixture
def host():
    with virt.connect(TEST_HOST) as opened:
        yield opened


def test_a_uri_of_an_unknown_kind_names_those_there_are():
    with pytest.raises(InvalidInput, match="xen") as caught:
        virt.connect("xen:///system")
    assert "qemu+ssh" in caught.value.hint


def test_nobody_listening_is_an_unreachable_host_and_nothing_is_printed(capfd):
    with pytest.raises(HostUnreachable, match="refused") as caught:
        virt.connect("qemu+tcp://127.0.0.1:9/system")
    assert caught.value.retryable
    assert "virsh -c qemu+tcp://127.0.0.1:9/system" in caught.value.hint
    assert capfd.readouterr() == ("", "")


def test_a_host_that_never_answers_is_given_up_after_the_timeout():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"qemu+tcp://127.0.0.1:{silent.getsockname()[1]}/system"
        started = time.monotonic()
        with pytest.raises(HostUnreachable, match=r"no answer within 0\.3 s"):
            connections.Connection(uri, timeout_s=0.3).get()
        assert time.monotonic() - started < 5


def test_each_look_at_a_host_that_never_answers_left_a_thread_and_a_socket_behind():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"qemu+tcp://127.0.0.1:{silent.getsockname()[1]}/system"
        one = connections.Connection(uri, timeout_s=0.1)
        for said in (*["no answer within"] * 2, *["2 calls have no answer yet"] * 2):
            with pytest.raises(HostUnreachable, match=said):
                one.get()
        hanging = [thread for thread in threading.enumerate() if thread.name == f"open {uri}"]
        assert len(hanging) == 2
    for thread in hanging:
        thread.join(10)
    with pytest.raises(HostUnreachable, match="refused"):
        one.get()


class Hangs:
    """A libvirt whose workers hang in `listAllDomains`, and whose keep-alive is answered all the same."""

    def __init__(self, real, until):
        self._real, self._until = real, until

    def __getattr__(self, name):
        return getattr(self._real, name)

    def listAllDomains(self):  # noqa: N802  (the bindings' name)
        self._until.wait(30)
        return self._real.listAllDomains()


def test_a_libvirtd_whose_workers_hang_blocked_every_caller_for_ever():
    """Only opening was bounded: recover, abort and audit waited for a daemon that answered keep-alive alone."""
    until = threading.Event()
    host = LibvirtHypervisor(TEST_HOST, call_timeout_s=0.3)
    host._connections.main._connection = Hangs(libvirt.open(TEST_HOST), until)
    started = time.monotonic()
    with pytest.raises(HostUnreachable, match=r"test:///default: no answer to domains within 0\.3 s") as caught:
        host.domains()
    assert time.monotonic() - started < 5
    assert caught.value.retryable
    until.set()
    assert [domain.name for domain in host.domains()] == ["test"], "the next call has a connection of its own"
    host.close()


class Breaks:
    """A connection that has broken, as libvirtd closes that of a client which does not answer its keep-alive."""

    def __init__(self, real):
        self._real = real

    def isAlive(self):  # noqa: N802  (the bindings' name)
        return False

    def close(self):
        self._real.close()


def test_a_call_that_was_decided_on_before_its_connection_broke_was_made_over_a_new_one():
    """A controller that had been stopped and taken over started its job, though libvirtd had closed its connection."""
    with LibvirtHypervisor(TEST_HOST) as host:
        uuid = host.domains()[0].uuid
        with host.same_connection():
            host.set_ownership(uuid, None)
            host._connections.main._connection = Breaks(host._connections.main._connection)
            with pytest.raises(HostUnreachable, match="the connection broke before the call was made"):
                host.set_ownership(uuid, None)
            in_another_thread = threading.Thread(target=host.domains)
            in_another_thread.start()
            in_another_thread.join()
            assert host._connections.main._connection.isAlive(), "another thread's call may open it again"
            with pytest.raises(HostUnreachable, match="the connection broke before the call was made"):
                host.set_ownership(uuid, None)
        host.set_ownership(uuid, None)


def test_a_connection_that_another_thread_closes_during_a_call_is_told_as_broken():
    """What came through was "invalid connection pointer", libvirt's own error."""
    main = connections.Connection(TEST_HOST)

    def closed_meanwhile(opened):
        main.close()
        return opened.listAllDomains()

    with pytest.raises(HostUnreachable, match="the connection broke"):
        main.call(closed_meanwhile)


def test_a_connection_that_hangs_does_not_keep_us_from_closing_it(monkeypatch):
    monkeypatch.setattr(connections, "CLOSE_TIMEOUT_S", 0.2)
    until = threading.Event()

    class Stuck(Hangs):
        def close(self):
            self._until.wait(30)

    main = connections.Connection(TEST_HOST)
    main._connection = Stuck(libvirt.open(TEST_HOST), until)
    started = time.monotonic()
    main.close()
    assert time.monotonic() - started < 5
    until.set()


def test_the_call_that_migrates_takes_as_long_as_its_job():
    main = connections.Connection(TEST_HOST, call_timeout_s=0.1)
    assert main.call(lambda _: time.sleep(0.4), limited=False) is None
    with pytest.raises(HostUnreachable, match=r"no answer to job within 0\.1 s"):
        main.call(lambda _: time.sleep(0.4), what="job")
    main.close()


def test_a_libvirt_that_is_too_old_is_refused(monkeypatch):
    monkeypatch.setattr(connections, "MINIMUM_LIBVIRT", 99_000_000)
    with pytest.raises(TooOld, match=r"older than 99\.0\.0"):
        virt.connect(TEST_HOST)


def test_ssh_never_asks_at_a_terminal():
    assert without_prompts("qemu+ssh://root@h/system") == "qemu+ssh://root@h/system?no_tty=1"
    assert without_prompts("qemu+ssh://h/system?keyfile=/k") == "qemu+ssh://h/system?keyfile=%2Fk&no_tty=1"
    assert without_prompts("qemu+ssh://h/system?no_tty=0") == "qemu+ssh://h/system?no_tty=0"
    assert without_prompts("qemu+tls://h/system") == "qemu+tls://h/system"


def test_an_unknown_domain(host):
    nobody = "11111111-2222-3333-4444-555555555555"
    assert host.domain(nobody) is None
    assert host.job(nobody) is None
    host.abort_job(nobody)
    with pytest.raises(NotFound, match="Domain not found"):
        host.domain_xml(nobody, XmlKind.LIVE)


def test_an_error_quotes_libvirt_but_not_the_secrets_and_chains_nothing(host):
    def fail(_connection):
        raise libvirt.libvirtError("cannot log in with hunter2")

    with pytest.raises(HypervisorError, match=r"cannot log in with \*\*\*") as caught:
        host._connections.main.call(fail, secrets=("hunter2",))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert redact("abc ab", ("ab", "abc")) == "*** ***"


def test_a_closed_connection_opens_again(host):
    host.close()
    host.close()
    assert [domain.name for domain in host.domains()] == ["test"]


def test_facts_of_libvirts_test_host(host):
    facts = host.facts()
    assert [cell.id for cell in facts.topology.cells] == [0, 1]
    assert facts.topology.cpus == CpuSet.parse("0,2,4"), "the test host lists 16 CPUs and has three of eight online"
    assert facts.topology.cell(1).memory_kib == 4194304
    assert facts.unplaced_cpus == CpuSet()
    assert facts.links == ("eth1",)
    assert facts.libvirt_version >= 7_000_000


def test_a_cpu_that_came_online_after_the_daemon_looked_is_told(host):
    """Seen with libvirt 9.0: 8 CPUs in its online map and 7 in its capabilities, until the daemon is restarted."""

    class Late:
        """The test host with its last online CPU in no cell."""

        def __init__(self, real):
            self._real = real

        def __getattr__(self, name):
            return getattr(self._real, name)

        def getCapabilities(self):  # noqa: N802  (the bindings' name)
            return re.sub(r"<cpu id='4'[^>]*>", "", self._real.getCapabilities())

    facts = host._connections.main.call(lambda opened: read_facts(Late(opened), TEST_HOST))
    assert facts.unplaced_cpus == CpuSet.parse("4")
    assert facts.topology.cpus == CpuSet.parse("0,2")


def test_domains_and_their_ownership(host):
    (domain,) = host.domains()
    assert (domain.name, domain.state, domain.persistent) == ("test", DomainState.RUNNING, True)
    assert domain.ownership is None
    ours = Ownership("ledger-1", "claim-7", "move-3", 12)
    host.set_ownership(domain.uuid, ours)
    host.set_ownership(domain.uuid, ours)
    assert host.domain(domain.uuid).ownership == ours
    assert re.search(r"ledger-1", host.domain_xml(domain.uuid, XmlKind.INACTIVE))
    host.set_ownership(domain.uuid, None)
    host.set_ownership(domain.uuid, None)
    assert host.domain(domain.uuid).ownership is None


def test_pins_beyond_the_hosts_cpus_are_refused_before_libvirt_cuts_them_off(host):
    (domain,) = host.domains()
    with pytest.raises(HypervisorError, match="CPUs 0,77: the host has 8"):
        host.set_pins(domain.uuid, {0: CpuSet.parse("0,77")}, persistent=False)


def test_a_missing_link_is_named(host):
    present = Vif("52:54:00:00:00:01", VifKind.DIRECT, "eth1")
    missing = Vif("52:54:00:00:00:02", VifKind.BRIDGE, "br7")
    network = Vif("52:54:00:00:00:03", VifKind.NETWORK, "no-such")
    assert host.check_vifs([present]) == ()
    assert host.check_vifs([missing, network]) == (
        "NIC 52:54:00:00:00:02: bridge br7 does not exist (links here: eth1)",
        "NIC 52:54:00:00:00:03: libvirt network no-such does not exist",
    )

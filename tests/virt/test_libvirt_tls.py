"""Control over qemu+tls and memory over TLS, with certificates of the test's own; bad ones are refused."""

import signal
import time

import attrs
import pytest

from certificates import EXPIRED, VALID, Authority
from labs import clear_guests, lab_of_kind
from numaferry.errors import HostUnreachable, HypervisorError
from numaferry.model import DomainState, MigrationPolicy
from numaferry.virt import connect
from real_moves import call_to, in_thread, spec_on, start, until

pytestmark = pytest.mark.lab
#: Where the hosts find their certificates, and the folder's name out here.
SHARED = "pki"
LIBVIRTD = """
listen_tls = 1
key_file = "{control}/serverkey.pem"
cert_file = "{control}/servercert.pem"
ca_file = "{control}/cacert.pem"
"""
QEMU = """
migrate_tls_x509_cert_dir = "{memory}"
migrate_tls_x509_verify = 1
"""


class TlsLab:
    """Two libvirtds of their own that speak TLS; `dress` gives a host a certificate."""

    def __init__(self, lab, folder):
        self.lab = lab
        self.authority = Authority(folder / "authority")
        self.client = self.authority.issue(folder / "client", "127.0.0.1")
        for host in lab.hosts:
            self.dress(host, host.ip)

    def dress(self, host, address, memory=VALID):
        """Give a host certificates for this address, for its daemon and for memory, and start the daemon again."""
        inside = {}
        for what, when in (("control", VALID), ("memory", memory)):
            place = self.lab.share / SHARED / f"{host.name}-{what}-{time.monotonic_ns()}"
            self.authority.issue(place, address, when=when)
            inside[what] = f"{host.share}/{SHARED}/{place.name}"
        home = self.lab.directory / "run" / host.name / "libvirt"
        for name, said in (("libvirtd.conf", LIBVIRTD), ("qemu.conf", QEMU)):
            path = home / name
            kept = path.read_text(encoding="utf-8").partition("# dressed")[0].replace("listen_tls = 0\n", "")
            path.write_text(f"{kept}# dressed\n{said.format(**inside)}", encoding="utf-8")
        # its first process starts a daemon again that was killed
        host.access.exec(f"kill -{signal.SIGKILL.value} $(cat /run/libvirtd.pid)", 10)
        until("an answer over TCP", lambda: answers(host.uri))

    def tls(self, host):
        """The URI of a host over TLS, for a client on this machine."""
        return f"qemu+tls://{host.ip}/system?pkipath={self.client}"

    def tls_between_hosts(self, source, dest):
        """The URI by which one host's daemon reaches another's."""
        pki = max((self.lab.share / SHARED).glob(f"{source.name}-control-*"), key=lambda path: path.name)
        return f"qemu+tls://{dest.ip}/system?pkipath={source.share}/{SHARED}/{pki.name}"


def answers(uri):
    """Tell whether a host answers, closing what was opened."""
    try:
        host = connect(uri)
        host.free_pages()
        host.close()
    except (HostUnreachable, HypervisorError):
        return False
    return True


@pytest.fixture(scope="module")
def tls_lab(lab_name, tmp_path_factory):
    for timed in lab_of_kind("namespaces", f"{lab_name}-tls"):
        yield TlsLab(timed.lab, tmp_path_factory.mktemp("tls"))


@pytest.fixture
def hosts(tls_lab):
    """Both hosts over TLS, without guests afterwards."""
    alpha, beta = tls_lab.lab.hosts
    opened = connect(tls_lab.tls(alpha)), connect(tls_lab.tls(beta))
    yield opened
    for one in opened:
        one.close()
    clear_guests(tls_lab.lab)


def guest(tls_lab, hosts, **policy):
    """A guest on alpha and the call that moves it, daemons and memory over TLS."""
    alpha, beta = tls_lab.lab.hosts
    uuid = start(alpha, spec_on(tls_lab.lab, alpha))
    call = attrs.evolve(
        call_to(tls_lab.lab, hosts[0], uuid),
        dest_uri=tls_lab.tls_between_hosts(alpha, beta),
        policy=MigrationPolicy(tls=True, bandwidth_mib_s=64, **policy),
    )
    return uuid, call


def test_a_guest_moves_with_control_and_memory_over_tls(tls_lab, hosts):
    uuid, call = guest(tls_lab, hosts)
    worker, errors = in_thread(lambda: hosts[0].live_migration(call))
    worker.join(60)
    assert errors == []
    assert hosts[0].domain(uuid) is None
    assert hosts[1].domain(uuid).state is DomainState.RUNNING


def refused(hosts, uuid, call, *dest_uris):
    """Assert that a move to each of these is refused, and that the guest runs on where it was."""
    for dest_uri in dest_uris:
        with pytest.raises(HypervisorError):
            hosts[0].live_migration(attrs.evolve(call, dest_uri=dest_uri))
        assert hosts[0].domain(uuid).state is DomainState.RUNNING


def test_a_host_with_another_hosts_certificate_is_not_spoken_to_and_gets_no_guest(tls_lab, hosts):
    beta = tls_lab.lab.hosts[1]
    uuid, call = guest(tls_lab, hosts)
    tls_lab.dress(beta, "192.0.2.1")
    try:
        with pytest.raises(HypervisorError, match="Failed to verify peer's certificate"):
            connect(tls_lab.tls(beta))
        # and where the daemons speak TCP it is the memory's certificate that refuses
        refused(hosts, uuid, call, call.dest_uri, beta.uri)
    finally:
        tls_lab.dress(beta, beta.ip)


def test_an_expired_certificate_is_not_taken_for_control_nor_for_memory(tls_lab, hosts, tmp_path):
    """A daemon with an expired one of its own does not even start."""
    beta = tls_lab.lab.hosts[1]
    expired = tls_lab.authority.issue(tmp_path / "expired", "127.0.0.1", when=EXPIRED)
    with pytest.raises(HostUnreachable, match="expired"):
        connect(f"qemu+tls://{beta.ip}/system?pkipath={expired}")
    uuid, call = guest(tls_lab, hosts)
    tls_lab.dress(beta, beta.ip, memory=EXPIRED)
    try:
        refused(hosts, uuid, call, beta.uri)
    finally:
        tls_lab.dress(beta, beta.ip)

"""Connections to one libvirtd: the only module that imports libvirt's bindings.

A host has two connections, opened when first needed and opened again after they broke: a call that migrates blocks its
connection's slot for as long as the job runs (a connection has five, libvirtd.conf ``max_client_requests``), so job
control has one of its own. Keep-alive needs an event loop; one thread runs it for the whole process.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from numaferry.errors import EnvironmentLacking, HostUnreachable, HypervisorError, NotFound, TooOld
from numaferry.model import version_text

try:
    import libvirt
except ImportError as _missing:
    raise EnvironmentLacking(
        "libvirt's Python bindings are not installed, so real hosts can't be reached",
        hint="pip install 'numaferry[libvirt]' (builds against Debian's libvirt-dev), or install python3-libvirt",
    ) from _missing

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Connection", "HostConnections", "libvirt", "redact"]

T = TypeVar("T")

#: 7.0.0: the first whose capabilities tell the NUMA part as it is now instead of as it was when the daemon started.
MINIMUM_LIBVIRT = 7_000_000
CONNECT_TIMEOUT_S = 15.0
#: A peer that is silent for 4 intervals of 5 s is gone; libvirtd's own default gives it 5 intervals.
KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_COUNT = 4

_UNAUTHORISED = {
    libvirt.VIR_ERR_AUTH_FAILED,
    libvirt.VIR_ERR_AUTH_CANCELLED,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE,
    libvirt.VIR_ERR_ACCESS_DENIED,
}
_loop_started = threading.Lock()
_loop: list[threading.Thread] = []


def redact(message: str, secrets: tuple[str, ...]) -> str:
    """Return the message without these values; libvirt and QEMU may quote what they were given."""
    for secret in sorted(secrets, key=len, reverse=True):
        message = message.replace(secret, "***")
    return message


def _ignore(_context: object, _error: object) -> None:
    """Keep libvirt from printing each error to stderr: it is raised as well, and shown once by who catches it."""


def _run_events() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError:  # a handle that was closed under the loop; the loop must outlive it
            continue


def start_event_loop() -> None:
    """Start the process's event loop once; it must be registered before the first connection is opened."""
    with _loop_started:
        if not _loop:
            libvirt.registerErrorHandler(_ignore, None)
            libvirt.virEventRegisterDefaultImpl()
            thread = threading.Thread(target=_run_events, name="libvirt-events", daemon=True)
            thread.start()
            _loop.append(thread)


def without_prompts(uri: str) -> str:
    """Return the URI so that ssh fails instead of asking at a terminal that nobody watches (libvirt: ``no_tty``)."""
    parts = urlsplit(uri)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.scheme != "qemu+ssh" or "no_tty" in query:
        return uri
    return urlunsplit(parts._replace(query=urlencode({**query, "no_tty": "1"})))


def _open(uri: str, timeout_s: float) -> libvirt.virConnect:
    """Open in a thread, since libvirt knows no timeout; a connection that comes too late is closed."""
    start_event_loop()
    opened: list[libvirt.virConnect] = []
    failed: list[libvirt.libvirtError] = []
    lock, given_up = threading.Lock(), threading.Event()

    def work() -> None:
        try:
            connection = libvirt.open(without_prompts(uri))
        except libvirt.libvirtError as error:
            failed.append(error)
            return
        with lock:
            if not given_up.is_set():
                opened.append(connection)
                return
        connection.close()

    thread = threading.Thread(target=work, name=f"open {uri}", daemon=True)
    thread.start()
    thread.join(timeout_s)
    with lock:
        given_up.set()
    if failed:
        raise _refused(uri, failed[0]) from None
    if not opened:
        raise HostUnreachable(
            f"{uri}: no answer within {timeout_s:g} s", hint="is the host up, and does a firewall drop the port?"
        )
    return opened[0]


def _refused(uri: str, error: libvirt.libvirtError) -> HypervisorError | HostUnreachable:
    message = f"{uri}: {error.get_error_message() or error}"
    if error.get_error_code() in _UNAUTHORISED:
        return HypervisorError(message, hint="check this user's credentials for the host's libvirtd")
    return HostUnreachable(message, hint=f"does `virsh -c {uri} hostname` work from this machine?")


class Connection:
    """One connection that is opened when first used, and opened again when it is found broken."""

    def __init__(self, uri: str, *, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        self.uri = uri
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._connection: libvirt.virConnect | None = None

    def get(self) -> libvirt.virConnect:
        """Return the live connection. Raises HostUnreachable, HypervisorError (not authorised), TooOld."""
        with self._lock:
            if self._connection is not None and self._connection.isAlive():
                return self._connection
            self._drop()
            self._connection = _open(self.uri, self._timeout_s)
            try:
                self._connection.setKeepAlive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT)
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:  # drivers without a wire
                    raise _refused(self.uri, error) from None
            self._check_version(self._connection)
            return self._connection

    def _check_version(self, connection: libvirt.virConnect) -> None:
        found = connection.getLibVersion()
        if found < MINIMUM_LIBVIRT:
            self._drop()
            raise TooOld(
                f"{self.uri} runs libvirt {version_text(found)}, older than {version_text(MINIMUM_LIBVIRT)}",
                hint="its capabilities may tell a NUMA topology that is no longer true; upgrade the host's libvirt",
            )

    def call(self, work: Callable[[libvirt.virConnect], T], *, secrets: tuple[str, ...] = ()) -> T:
        """Run `work` with the live connection and turn libvirt's errors into ours, its message quoted.

        Raises NotFound where libvirt knows no such domain, HostUnreachable when the connection broke, else
        HypervisorError. `secrets` are blotted out of the message; the original error is not chained, since it holds
        them too.
        """
        connection = self.get()
        try:
            return work(connection)
        except libvirt.libvirtError as error:
            raise self._translated(connection, error, secrets) from None

    def _translated(
        self, connection: libvirt.virConnect, error: libvirt.libvirtError, secrets: tuple[str, ...]
    ) -> HypervisorError | HostUnreachable | NotFound:
        text = redact(error.get_error_message() or str(error), secrets)
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return NotFound(f"{self.uri}: {text}", hint="list what runs there with `numaferry scan`")
        if not connection.isAlive():
            return HostUnreachable(
                f"{self.uri}: the connection broke: {text}",
                hint="what was asked may have happened or not: look again when the host answers",
            )
        if error.get_error_code() in _UNAUTHORISED:
            return HypervisorError(f"{self.uri}: {text}", hint="the host's libvirtd forbids this to the user it knows")
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_TIMEOUT:
            busy = HypervisorError(f"{self.uri}: {text}", hint="a job holds the domain: try again when it has ended")
            busy.retryable = True
            return busy
        return HypervisorError(
            f"{self.uri}: {text}", hint="this is libvirt's own message; its log on the host says more"
        )

    def _drop(self) -> None:
        """Close what is open, if anything; the lock is held."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except libvirt.libvirtError:  # broken already: nothing is left to close
                return

    def close(self) -> None:
        """Close; safe to repeat. A later call opens again."""
        with self._lock:
            self._drop()


class HostConnections:
    """The two connections of one host: `main` for everything, `control` for jobs while `main` is busy with one."""

    def __init__(self, uri: str, *, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        self.uri = uri
        self.main = Connection(uri, timeout_s=timeout_s)
        self.control = Connection(uri, timeout_s=timeout_s)

    def close(self) -> None:
        """Close both; safe to repeat."""
        self.main.close()
        self.control.close()

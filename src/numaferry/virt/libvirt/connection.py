"""Connections to one libvirtd: the only module that imports libvirt's bindings.

A host has two connections, opened when first needed and opened again after they broke: a call that migrates blocks its
connection's slot for as long as the job runs (a connection has five, libvirtd.conf ``max_client_requests``), so job
control has one of its own. Keep-alive needs an event loop; one thread runs it for the whole process.

libvirt knows no time limit, and its keep-alive is answered by the daemon's event loop also while all of its workers
hang. So every call is made in a thread of its own and waited for so long; only the one that migrates takes as long as
its job does.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, suppress
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
    from collections.abc import Callable, Iterator

__all__ = ["Connection", "HostConnections", "libvirt", "redact"]

T = TypeVar("T")

#: 7.0.0: the first whose capabilities tell the NUMA part as it is now instead of as it was when the daemon started.
MINIMUM_LIBVIRT = 7_000_000
CONNECT_TIMEOUT_S = 15.0
#: A peer that is silent for 4 intervals of 5 s is gone; libvirtd's own default gives it 5 intervals.
KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_COUNT = 4
#: Above the 30 s that libvirtd itself waits for another job's lock of a domain (qemu's QEMU_JOB_WAIT_TIME).
CALL_TIMEOUT_S = 60.0
#: Closing says good-bye to the daemon, which needs no answer.
CLOSE_TIMEOUT_S = 2.0

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


class _LateError(Exception):
    """The time is up; the call may yet happen, in this thread."""

    def __init__(self, thread: threading.Thread) -> None:
        super().__init__(thread.name)
        self.thread = thread


def _in_time(work: Callable[[], T], timeout_s: float, name: str, *, late: Callable[[T], object] | None = None) -> T:
    """Return what `work` returns, or raise what it raises; _LateError when it takes longer than `timeout_s`.

    The thread that hangs is left to itself: nothing can end a call of libvirt from outside. A result that comes too
    late is given to `late`.
    """
    results: list[T] = []
    failures: list[BaseException] = []
    lock, given_up = threading.Lock(), threading.Event()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  (carried over to the waiting thread as it is)
            failures.append(error)
            return
        with lock:
            if not given_up.is_set():
                results.append(result)
                return
        if late is not None:
            late(result)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    thread.join(timeout_s)
    with lock:
        given_up.set()
    if failures:
        raise failures[0]
    if not results:
        raise _LateError(thread)
    return results[0]


def _open(uri: str, timeout_s: float) -> tuple[libvirt.virConnect, int]:
    """Return a connection with keep-alive on and the daemon's version; one that comes too late is closed."""
    start_event_loop()

    def work() -> tuple[libvirt.virConnect, int]:
        connection = libvirt.open(without_prompts(uri))
        try:
            connection.setKeepAlive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:  # drivers without a wire
                raise
        return connection, connection.getLibVersion()

    try:
        return _in_time(work, timeout_s, f"open {uri}", late=lambda opened: opened[0].close())
    except libvirt.libvirtError as error:
        raise _refused(uri, error) from None


def _refused(uri: str, error: libvirt.libvirtError) -> HypervisorError | HostUnreachable:
    message = f"{uri}: {error.get_error_message() or error}"
    if error.get_error_code() in _UNAUTHORISED:
        return HypervisorError(message, hint="check this user's credentials for the host's libvirtd")
    return HostUnreachable(message, hint=f"does `virsh -c {uri} hostname` work from this machine?")


def _alive(connection: libvirt.virConnect) -> bool:
    """Tell whether a connection can be used; one that another thread has closed can't even be asked."""
    try:
        return bool(connection.isAlive())
    except libvirt.libvirtError:
        return False


class Connection:
    """One connection that is opened when first used, and opened again when it is found broken."""

    def __init__(
        self, uri: str, *, timeout_s: float = CONNECT_TIMEOUT_S, call_timeout_s: float = CALL_TIMEOUT_S
    ) -> None:
        self.uri = uri
        self._timeout_s = timeout_s
        self._call_timeout_s = call_timeout_s
        self._lock = threading.Lock()
        self._connection: libvirt.virConnect | None = None
        self._kept = threading.local()
        #: Threads that wait for a daemon which took a call and answers nothing: each holds a socket, and none can be
        #: ended. So the more there are, the longer the next attempt has to wait.
        self._hanging: list[threading.Thread] = []
        self._hangs_since_s = 0.0

    @contextmanager
    def kept(self) -> Iterator[None]:
        """In this thread and until the end, make calls over the connection that is open now, or not at all."""
        self._kept.connection = self.get()
        try:
            yield
        finally:
            del self._kept.connection

    def get(self) -> libvirt.virConnect:
        """Return the live connection. Raises HostUnreachable, HypervisorError (not authorised), TooOld."""
        kept: libvirt.virConnect | None = getattr(self._kept, "connection", None)
        with self._lock:
            now = self._connection
            if now is not None and _alive(now) and (kept is None or kept is now):
                return now
            if kept is not None:
                raise HostUnreachable(
                    f"{self.uri}: the connection broke before the call was made",
                    hint="nothing was asked; look again when the host answers",
                )
            self._drop()
            self._connection, version = self._opened()
            self._check_version(version)
            return self._connection

    def _opened(self) -> tuple[libvirt.virConnect, int]:
        """Open; the lock is held. Raises as `get`."""
        self._hanging = [thread for thread in self._hanging if thread.is_alive()]
        left_s = self._hangs_since_s + (len(self._hanging) - 1) * self._call_timeout_s - time.monotonic()
        if left_s > 0:
            raise HostUnreachable(
                f"{self.uri}: {len(self._hanging)} calls have no answer yet; it is tried again in {left_s:.0f} s",
                hint="its libvirtd is reached and does not work: look at its log",
            )
        try:
            return _open(self.uri, self._timeout_s)
        except _LateError as error:
            self._hangs(error.thread)
            raise HostUnreachable(
                f"{self.uri}: no answer within {self._timeout_s:g} s",
                hint="is the host up, and does a firewall drop the port?",
            ) from None

    def _hangs(self, thread: threading.Thread) -> None:
        """Remember a thread that got no answer; the lock is held."""
        self._hanging.append(thread)
        self._hangs_since_s = time.monotonic()

    def _check_version(self, found: int) -> None:
        """Close the connection and raise TooOld where the daemon is; the lock is held."""
        if found < MINIMUM_LIBVIRT:
            self._drop()
            raise TooOld(
                f"{self.uri} runs libvirt {version_text(found)}, older than {version_text(MINIMUM_LIBVIRT)}",
                hint="its capabilities may tell a NUMA topology that is no longer true; upgrade the host's libvirt",
            )

    def call(
        self,
        work: Callable[[libvirt.virConnect], T],
        *,
        what: str = "a call",
        secrets: tuple[str, ...] = (),
        limited: bool = True,
    ) -> T:
        """Run `work` with the live connection and turn libvirt's errors into ours, its message quoted.

        Raises NotFound where libvirt knows no such domain, HostUnreachable when the connection broke or `what` took
        longer than the limit (not with `limited` off), else HypervisorError. `secrets` are blotted out of the message;
        the original error is not chained, since it holds them too.
        """
        connection = self.get()
        try:
            if not limited:
                return work(connection)
            return _in_time(lambda: work(connection), self._call_timeout_s, f"{what} {self.uri}")
        except libvirt.libvirtError as error:
            raise self._translated(connection, error, secrets) from None
        except _LateError as error:
            self._abandon(connection, error.thread)
            raise HostUnreachable(
                f"{self.uri}: no answer to {what} within {self._call_timeout_s:g} s",
                hint="its libvirtd is reached and does not work: look at its log; what was asked may yet happen",
            ) from None

    def _translated(
        self, connection: libvirt.virConnect, error: libvirt.libvirtError, secrets: tuple[str, ...]
    ) -> HypervisorError | HostUnreachable | NotFound:
        text = redact(error.get_error_message() or str(error), secrets)
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return NotFound(f"{self.uri}: {text}", hint="list what runs there with `numaferry scan`")
        if not _alive(connection):
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

    def _abandon(self, connection: libvirt.virConnect, thread: threading.Thread) -> None:
        """Use a connection no more on which a call hangs; that call's thread closes it, should it ever return."""
        with self._lock:
            self._hangs(thread)
            if self._connection is connection:
                self._connection = None

    def _drop(self) -> None:
        """Close what is open, if anything; the lock is held."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # broken already, or its daemon hangs: nothing is left to close
            with suppress(libvirt.libvirtError, _LateError):
                _in_time(connection.close, CLOSE_TIMEOUT_S, f"close {self.uri}")

    def close(self) -> None:
        """Close; safe to repeat. A later call opens again."""
        with self._lock:
            self._drop()


class HostConnections:
    """The two connections of one host: `main` for everything, `control` for jobs while `main` is busy with one."""

    def __init__(
        self, uri: str, *, timeout_s: float = CONNECT_TIMEOUT_S, call_timeout_s: float = CALL_TIMEOUT_S
    ) -> None:
        self.uri = uri
        self.main = Connection(uri, timeout_s=timeout_s, call_timeout_s=call_timeout_s)
        self.control = Connection(uri, timeout_s=timeout_s, call_timeout_s=call_timeout_s)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """In this thread and until the end, make calls over the connections that are open now, or not at all."""
        with self.main.kept(), self.control.kept():
            yield

    def close(self) -> None:
        """Close both; safe to repeat."""
        self.main.close()
        self.control.close()

"""The exec channel's outer end: framed requests over a virtio-serial port, safe for many clients, one after another.

A request is one line of ASCII, `NFX <id> <timeout_s> <base64 of the command> .`, where the
point says that the line is whole; the answer is

::

    NFB <id>
    <base64 lines of what the command wrote, standard output and error together>
    NFE <id> <exit code>

A port has no notion of a connection: what a client that died left unread arrives at the next one. So every answer bears
its request's random id, and everything outside one's own frame is skipped. A lock file next to the socket lets one
client in at a time.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import fcntl
import os
import secrets
import socket
import time
from typing import TYPE_CHECKING

from attrs import frozen

from numaferry.errors import HostUnreachable, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Linux takes no longer word than 128 KiB, and base64 makes four of three
MAX_COMMAND = 90_000
# what a host under emulation may need beyond the command's own time: start a shell, encode the output
GRACE_S = 30.0


@frozen
class ExecResult:
    """How a command ended inside a host, and all it wrote (standard output and error, as they came)."""

    exit_code: int
    output: str


class _Lines:
    """Lines read from a socket until a deadline."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()

    def next(self, deadline: float) -> bytes:
        """Return the next line without its end. Raises TimeoutError at `deadline`, ConnectionError at the end."""
        while (end := self._buffer.find(b"\n")) < 0:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._connection.settimeout(left)
            chunk = self._connection.recv(65536)
            if not chunk:
                raise ConnectionResetError(errno.ECONNRESET, "the host closed the channel")
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line.rstrip(b"\r")


@contextlib.contextmanager
def _turn(path: Path, deadline: float) -> Iterator[None]:
    """Wait for the channel's lock until `deadline`."""
    descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError from None
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def _connect(path: Path, timeout_s: float) -> socket.socket:
    """Connect to a socket whose path may be longer than the 108 bytes of unix(7): by way of its open directory."""
    connection = socket.socket(socket.AF_UNIX)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connection.settimeout(timeout_s)
        connection.connect(f"/proc/self/fd/{directory}/{path.name}")
    except OSError:
        connection.close()
        raise
    finally:
        os.close(directory)
    return connection


def _exchange(connection: socket.socket, command: str, timeout_s: float, deadline: float) -> ExecResult:
    mark = secrets.token_hex(8)
    line = f"NFX {mark} {timeout_s:.0f} {base64.b64encode(command.encode()).decode()} .\n".encode()
    lines = _Lines(connection)
    connection.sendall(b"\n" + line)
    while lines.next(deadline) != f"NFB {mark}".encode():
        pass
    encoded = bytearray()
    while not (text := lines.next(deadline)).startswith(f"NFE {mark} ".encode()):
        encoded += text
    with contextlib.suppress(binascii.Error):
        encoded = bytearray(base64.b64decode(bytes(encoded)))
    return ExecResult(exit_code=int(text.split()[2]), output=encoded.decode(errors="replace"))


def request(path: Path, command: str, timeout_s: float, *, grace_s: float = GRACE_S) -> ExecResult:
    """Run `command` in the host behind the socket `path`; its exit code is 124 when it took longer than `timeout_s`.

    Raises InvalidInput for a command of more than 90 000 characters, HostUnreachable when the host doesn't answer
    within `timeout_s` and `grace_s` seconds of its turn.
    """
    if len(command) > MAX_COMMAND:
        raise InvalidInput(
            f"a command of {len(command)} characters; {MAX_COMMAND} is the most", hint="put it into the common folder"
        )
    try:
        with _turn(path, time.monotonic() + timeout_s + grace_s):
            deadline = time.monotonic() + timeout_s + grace_s
            with _connect(path, grace_s) as connection:
                return _exchange(connection, command, timeout_s, deadline)
    except OSError as error:
        what = f"no answer within {timeout_s + grace_s:g} s" if isinstance(error, TimeoutError) else str(error.strerror)
        raise HostUnreachable(
            f"the exec channel {path} gave no result: {what}",
            hint="numaferry lab status; the host's console.log lies beside the socket",
        ) from error

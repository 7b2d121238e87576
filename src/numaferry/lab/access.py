"""Running a command inside a lab host: over its virtio-serial channel, or by entering its namespaces.

Neither opens a port: the channel is a 0600 unix socket in a 0700 directory, the namespaces are entered as root.
"""

from __future__ import annotations

import subprocess
from pathlib import Path  # noqa: TC003 - cattrs reads the annotations at run time

from attrs import frozen

from numaferry.errors import HostUnreachable
from numaferry.lab.channel import ExecResult, request
from numaferry.lab.processes import Process  # noqa: TC001 - cattrs reads the annotations at run time

__all__ = ["ExecResult", "NamespaceAccess", "SerialAccess"]

TIMED_OUT = 124


@frozen
class SerialAccess:
    """Through the exec channel of a QEMU machine: `socket` is its unix socket on this machine."""

    socket: Path

    def exec(self, command: str, timeout_s: float) -> ExecResult:
        """Run `command` by the host's shell; exit code 124 when it took longer than `timeout_s`, as timeout(1) has it.

        Raises HostUnreachable when the host doesn't answer.
        """
        return request(self.socket, command, timeout_s)


@frozen
class NamespaceAccess:
    """By entering all namespaces of `process`, a host's first one."""

    process: Process

    def exec(self, command: str, timeout_s: float) -> ExecResult:
        """Run `command` by the shell inside the namespaces; exit code 124 when it took longer than `timeout_s`.

        Raises HostUnreachable when the host's process is gone.
        """
        if not self.process.alive:
            raise HostUnreachable(f"the host's process {self.process.pid} is gone", hint="numaferry lab status")
        try:
            done = subprocess.run(
                ["nsenter", f"--target={self.process.pid}", "--all", "--", "sh", "-c", command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            return ExecResult(exit_code=TIMED_OUT, output=(error.stdout or b"").decode(errors="replace"))
        return ExecResult(exit_code=done.returncode, output=done.stdout.decode(errors="replace"))

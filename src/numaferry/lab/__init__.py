"""A lab of real hypervisor hosts on one machine: `hosts` (QEMU machines with real NUMA) and `namespaces` (quick).

`up()`, `down()` and `status()` change and tell; `load()` returns the `Lab` that is up in a directory. Everything made
on the machine is written to a journal before it exists, so nothing outlives `down()`, whatever crashed before it.
"""

from __future__ import annotations

from numaferry.lab.channel import ExecResult
from numaferry.lab.control import Status, down, status, up
from numaferry.lab.model import Lab, LabHost, load
from numaferry.lab.place import lab_directory

__all__ = ["ExecResult", "Lab", "LabHost", "Status", "down", "lab_directory", "load", "status", "up"]

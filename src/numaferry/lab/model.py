"""What a lab is, as values: its hosts, how to reach them, and what they share. Kept as `lab.json` in its directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import cattrs
from attrs import frozen

from numaferry.errors import EnvironmentLacking, NotFound
from numaferry.lab.access import ExecResult, NamespaceAccess, SerialAccess  # noqa: TC001 - cattrs reads the annotations at run time
from numaferry.lab.commands import run
from numaferry.lab.processes import Process  # noqa: TC001 - cattrs reads the annotations at run time

FILE_NAME = "lab.json"

Kind = Literal["hosts", "namespaces"]

_converter = cattrs.Converter()
_converter.register_structure_hook(Path, lambda value, _: Path(value))
_converter.register_unstructure_hook(Path, str)


@frozen
class LabHost:
    """A hypervisor host of a lab.

    `uri` is libvirt's, reachable from this machine; `ip` also serves migrations between the hosts. `data_links` are
    the names *inside* the host of the NICs on the lab's data network, `bridges` of its Linux bridges. `share` is the
    folder all hosts have in common, by its path inside the host (the same in all of them). `notation` is what the host
    was made from.
    """

    name: str
    uri: str
    ip: str
    data_links: tuple[str, ...]
    bridges: tuple[str, ...]
    share: Path
    notation: str
    process: Process
    access: SerialAccess | NamespaceAccess

    @property
    def alive(self) -> bool:
        """Whether the host's process runs; says nothing of its libvirtd."""
        return self.process.alive

    def answers(self, timeout_s: float = 10) -> bool:
        """Ask whether a libvirt call succeeds within `timeout_s` seconds."""
        try:
            run(["virsh", "--connect", self.uri, "version"], timeout_s=timeout_s)
        except EnvironmentLacking:
            return False
        return True

    def exec(self, command: str, timeout_s: float = 60) -> ExecResult:
        """Run a shell command as root inside the host; see `access`."""
        return self.access.exec(command, timeout_s)


@frozen
class Lab:
    """A lab that is up: `share` is the hosts' common folder by its path on *this* machine."""

    kind: Kind
    name: str
    directory: Path
    lab_id: str
    netns: str
    outer_ip: str
    share: Path
    accelerator: str
    hosts: tuple[LabHost, ...]

    @property
    def guest_type(self) -> Literal["kvm", "qemu"]:
        """The `<domain type=>` that guests of this lab should have: kvm only where the hosts themselves run on KVM.

        Emulated hosts offer nested KVM too (QEMU emulates SVM), but it is not dependable: of 25 peer-to-peer moves of a
        guest of type kvm between two such hosts one left the guest waiting for an interrupt for ever and one hung the
        host; 40 of 40 moves of the same guest of type qemu went well, in half the time (libvirt 9.0, QEMU 7.2).
        """
        return "kvm" if self.accelerator == "kvm" else "qemu"

    def host(self, name: str) -> LabHost:
        """Return the host called `name`. Raises NotFound, naming those there are."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise NotFound(
            f"lab {self.name} has no host {name!r}", hint=f"it has {', '.join(host.name for host in self.hosts)}"
        )


def save(lab: Lab) -> None:
    """Write the lab into its directory, whole or not at all."""
    draft = lab.directory / f"{FILE_NAME}.new"
    draft.write_text(json.dumps(_converter.unstructure(lab), indent=1), encoding="utf-8")
    draft.replace(lab.directory / FILE_NAME)


def load(directory: Path) -> Lab:
    """Return the lab that is up in `directory`. Raises NotFound when there is none."""
    path = directory / FILE_NAME
    try:
        return _converter.structure(json.loads(path.read_text(encoding="utf-8")), Lab)
    except FileNotFoundError as error:
        raise NotFound(f"no lab is up in {directory}", hint="numaferry lab up") from error

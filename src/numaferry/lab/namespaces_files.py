"""The files that a namespace host has of its own: libvirt's configuration, and who there is on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# no authentication: the address is on a link that only this machine has, and only as long as the lab is up
LIBVIRTD_CONF = """\
listen_tls = 0
listen_tcp = 1
listen_addr = "{address}"
auth_tcp = "none"
auth_unix_rw = "none"
auth_unix_ro = "none"
host_uuid = "{host_uuid}"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
"""

# everything runs as the root of the namespaces; no control groups, no security driver, no log daemon
QEMU_CONF = """\
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
migration_address = "{address}"
migration_host = "{address}"
"""

# libvirtd looks these up at start; the package that makes them would also start daemons of its own
ACCOUNTS = {
    "passwd": {"libvirt-qemu": "libvirt-qemu:x:64055:64055:lab:/var/lib/libvirt:/usr/sbin/nologin"},
    "group": {
        "kvm": "kvm:x:64053:",
        "libvirt": "libvirt:x:64054:",
        "libvirt-qemu": "libvirt-qemu:x:64055:",
    },
}


def libvirt_files(directory: Path, *, address: str, host_uuid: str) -> None:
    """Write the host's /etc/libvirt into `directory`, which is made."""
    directory.mkdir()
    (directory / "libvirtd.conf").write_text(LIBVIRTD_CONF.format(address=address, host_uuid=host_uuid))
    (directory / "qemu.conf").write_text(QEMU_CONF.format(address=address))


def with_accounts(existing: str, wanted: Mapping[str, str]) -> str:
    """Return passwd(5) or group(5) text with the `wanted` lines added whose names are missing."""
    lines = existing.splitlines()
    names = {line.partition(":")[0] for line in lines}
    return "\n".join([*lines, *(line for name, line in wanted.items() if name not in names)]) + "\n"


def private_files(home: Path, name: str, names: Mapping[str, str]) -> None:
    """Write the host's passwd, group and hosts into `home`; `names` maps the addresses of all hosts to their names."""
    for file, wanted in ACCOUNTS.items():
        text = Path("/etc", file).read_text(encoding="utf-8", errors="surrogateescape")
        (home / file).write_text(with_accounts(text, wanted), encoding="utf-8", errors="surrogateescape")
    hosts = [
        f"127.0.0.1 localhost {name}",
        *(f"{address} {other}" for address, other in names.items() if other != name),
    ]
    (home / "hosts").write_text("\n".join(hosts) + "\n", encoding="utf-8")

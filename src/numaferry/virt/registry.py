"""URI → hypervisor. `connect` is what every other room calls; it never says which side answers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from numaferry.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from numaferry.virt.port import Hypervisor

_LIBVIRT = "numaferry.virt.libvirt.driver:connect"
_SIMULATED = "numaferry.virt.simulated.registry:connect"

#: URI scheme → "module:function". Modules are imported when first asked for: libvirt's bindings are optional.
SCHEMES = {
    "qemu": _LIBVIRT,
    "qemu+unix": _LIBVIRT,
    "qemu+tcp": _LIBVIRT,
    "qemu+tls": _LIBVIRT,
    "qemu+ssh": _LIBVIRT,
    "qemu+libssh": _LIBVIRT,
    "qemu+libssh2": _LIBVIRT,
    "test": _LIBVIRT,
    "sim": _SIMULATED,
}


def connect(uri: str) -> Hypervisor:
    """Open a host.

    `uri` is libvirt's (``qemu+tls://host/system``, ``qemu+ssh://root@host/system``) or ``sim://FLEET/HOST`` for a
    simulated fleet of this process. Raises InvalidInput, HostUnreachable, TooOld, and EnvironmentLacking where the
    Python bindings of libvirt are not installed.
    """
    scheme = urlsplit(uri).scheme
    if scheme not in SCHEMES:
        raise InvalidInput(
            f"{uri!r} is no URI of a host that numaferry can talk to",
            hint=f"use one of {', '.join(f'{name}:' for name in SCHEMES)} for example qemu+ssh://root@host/system",
        )
    module, _, name = SCHEMES[scheme].partition(":")
    opener = cast("Callable[[str], Hypervisor]", getattr(import_module(module), name))
    return opener(uri)

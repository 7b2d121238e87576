"""Our port to two real libvirtds in namespaces, for the tests of this room."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from labs import clear_guests
from numaferry import virt

if TYPE_CHECKING:
    from numaferry.lab import Lab


@pytest.fixture(scope="session")
def real_lab(namespaces_lab) -> Lab:
    """The namespaces lab: hosts alpha and beta, one NUMA node and one page pool between them."""
    return namespaces_lab


@pytest.fixture
def real_hosts(real_lab):
    """Our port to both hosts; whatever domain a test leaves there is removed."""
    opened = [virt.connect(host.uri) for host in real_lab.hosts]
    yield opened
    for hypervisor in opened:
        hypervisor.close()
    clear_guests(real_lab)

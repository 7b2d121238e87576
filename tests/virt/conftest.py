"""Two real libvirtds in namespaces for the tests of this room, up once for all of them and down again at the end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import libvirt
import pytest

from numaferry import virt
from numaferry.errors import EnvironmentLacking
from numaferry.lab import control

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numaferry.lab import Lab

NAME = "pytest-virt"


@pytest.fixture(scope="session")
def real_lab(tmp_path_factory) -> Iterator[Lab]:
    """The namespaces lab: hosts alpha and beta, one NUMA node and one page pool between them."""
    directory = tmp_path_factory.mktemp("virt-lab")
    try:
        lab = control.up("namespaces", name=NAME, directory=directory)
    except EnvironmentLacking as error:
        if os.environ.get("NUMAFERRY_REQUIRE_ALL") == "1":
            raise
        pytest.skip(f"no namespaces lab here: {error.message}")
    yield lab
    control.down(name=NAME, directory=directory)


@pytest.fixture
def real_hosts(real_lab):
    """Our port to both hosts; whatever domain a test leaves there is removed."""
    opened = [virt.connect(host.uri) for host in real_lab.hosts]
    yield opened
    for hypervisor in opened:
        hypervisor.close()
    for host in real_lab.hosts:
        connection = libvirt.open(host.uri)
        for domain in connection.listAllDomains():
            persistent = domain.isPersistent()
            if domain.isActive():
                domain.destroy()
            if persistent:
                domain.undefine()
        connection.close()

"""The address of the migration network, as libvirt wants it."""

import pytest

from numaferry.model import HostConfig


@pytest.mark.parametrize(
    ("address", "uri"),
    [
        ("", ""),
        ("10.0.0.1", "tcp://10.0.0.1"),
        ("host-a", "tcp://host-a"),
        ("host-a:49160", "tcp://host-a:49160"),
        ("fd00::2", "tcp://[fd00::2]"),
        ("[fd00::2]", "tcp://[fd00::2]"),
        ("[fd00::2]:49160", "tcp://[fd00::2]:49160"),
        ("tcp://[fd00::2]", "tcp://[fd00::2]"),
        ("rdma://10.0.0.1", "rdma://10.0.0.1"),
    ],
)
def test_an_ipv6_address_without_brackets_was_taken_for_a_host_and_a_port(address, uri):
    assert HostConfig(migration_address=address).migrate_uri == uri


@pytest.mark.parametrize(
    ("address", "listens"),
    [("", ""), ("10.0.0.1", "10.0.0.1"), ("[fd00::2]", "fd00::2"), ("host-a", ""), ("tcp://10.0.0.1", "")],
)
def test_a_qemu_that_arrives_listens_in_the_migration_network_alone(address, listens):
    assert HostConfig(migration_address=address).listen_address == listens

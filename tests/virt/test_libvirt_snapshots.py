"""Snapshots are counted through the real bindings, on libvirt's own test driver."""

import libvirt

from numaferry.virt.libvirt.domains import see


def test_snapshots_are_counted():
    connection = libvirt.open("test:///default")
    try:
        domain = connection.lookupByName("test")
        assert see(domain).snapshots == 0
        domain.snapshotCreateXML("<domainsnapshot><name>before</name></domainsnapshot>")
        assert see(domain).snapshots == 1
    finally:
        connection.close()

"""A guest on the namespaces lab and the call that moves it, for tests that talk to two real libvirtds."""

from __future__ import annotations

import threading
import time

import libvirt

from numaferry.errors import HostUnreachable, HypervisorError
from numaferry.lab.guests import BridgeNic, GuestCell, GuestSpec, MacvtapNic, domain_xml, put_in_share
from numaferry.model import MigrateCall, MigrationPolicy, XmlKind

MAC = "52:54:00:00:07:01"
SLOW_MIB_S = 4


def spec_on(lab, host, name="g1", **words):
    """A guest of 64 MiB whose two vCPUs have a CPU each, with a macvtap NIC and one on the bridge."""
    return GuestSpec(
        **{
            "name": name,
            "image": put_in_share(lab, "tiny"),
            "serial": host.share / f"{name}.serial",
            "vcpus": 2,
            "cells": (GuestCell("0", 32, "0"), GuestCell("1", 32, "0")),
            "vcpu_pins": {0: "0", 1: "1"},
            "emulator_pin": "0-1",
            "iothreads": 1,
            "iothread_pins": {1: "1"},
            "nics": (MacvtapNic(host.data_links[0], MAC), BridgeNic(host.bridges[0], "52:54:00:00:07:02")),
            **words,
        }
    )


def start(host, spec, *, persistent=False):
    """Start a guest by libvirt itself and return its UUID once QEMU has told its figures."""
    connection = libvirt.open(host.uri)
    xml = domain_xml(spec)
    if persistent:
        domain = connection.defineXML(xml)
        domain.create()
    else:
        domain = connection.createXML(xml)
    uuid = domain.UUIDString()
    connection.close()
    return uuid


def call_to(lab, source, uuid, *, bandwidth_mib_s=0, swap=True):
    """The call that moves this guest to beta: the link renamed, the pins of vCPU 0 and 1 swapped."""
    alpha, beta = lab.hosts

    def changed(xml):
        xml = xml.replace(alpha.data_links[0], beta.data_links[0])
        if not swap:
            return xml
        xml = xml.replace("vcpupin vcpu='0' cpuset='0'", "vcpupin vcpu='0' cpuset='1'")
        return xml.replace("vcpupin vcpu='1' cpuset='1'", "vcpupin vcpu='1' cpuset='0'")

    persistent = source.domain(uuid).persistent
    return MigrateCall(
        uuid=uuid,
        dest_uri=beta.uri,
        migrate_uri=f"tcp://{beta.ip}",
        dest_xml=changed(source.domain_xml(uuid, XmlKind.MIGRATABLE)),
        persistent_xml=changed(source.domain_xml(uuid, XmlKind.INACTIVE)) if persistent else None,
        policy=MigrationPolicy(bandwidth_mib_s=bandwidth_mib_s),
    )


def until(what, condition, timeout_s=30):
    """Wait for a condition and return its value."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s} s"
        time.sleep(0.05)
    return value


def in_thread(work):
    """Run `work` in a thread; return the thread and the list that its error will be in."""
    errors = []

    def run():
        try:
            work()
        except (HypervisorError, HostUnreachable) as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors

"""Addresses are chosen beside what the machine uses, by rule and in fact."""

import ipaddress
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numaferry.errors import EnvironmentLacking
from numaferry.lab.journal import Journal
from numaferry.lab.network import RANGES, choose_subnets, free_subnets, make_network, new_id, taken_networks
from numaferry.lab.resources import teardown

Network = ipaddress.IPv4Network

networks = st.builds(
    lambda base, prefix: Network((base, prefix), strict=False), st.integers(0, 2**32 - 1), st.integers(1, 32)
)
near = st.builds(
    lambda low, prefix: Network((0x0A4D0000 + low, prefix), strict=False), st.integers(0, 65535), st.integers(12, 32)
)


@settings(deadline=None)  # walks up to a thousand subnets
@given(taken=st.lists(networks | near, max_size=6), count=st.integers(1, 4))
def test_a_chosen_subnet_touches_nothing_taken_and_no_other(taken: list[Network], count: int) -> None:
    try:
        chosen = choose_subnets(taken, count)
    except EnvironmentLacking:
        assert sum(1 for _ in free_subnets(taken)) < count
        return
    assert len(chosen) == count
    assert not any(subnet.overlaps(other) for subnet in chosen for other in taken)
    assert not any(one.overlaps(other) for one in chosen for other in chosen if one is not other)


def test_a_machine_that_uses_all_ranges_is_told_so() -> None:
    with pytest.raises(EnvironmentLacking, match="1 free /24 networks wanted"):
        choose_subnets(RANGES, 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")
def test_two_labs_side_by_side_have_different_networks_and_short_names(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    try:
        one, other = make_network(journal, new_id()), make_network(journal, new_id())
        assert one.subnet != other.subnet
        assert Network(one.subnet) in taken_networks()
        assert all(len(each.facts["name"]) <= 15 for each in journal.outstanding() if each.kind == "link")
        assert one.host_ip(0).endswith(".11")
    finally:
        assert teardown(journal) == ()
    assert Network(one.subnet) not in taken_networks()


@pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")
def test_forwarding_stays_as_it_was(tmp_path: Path) -> None:
    def settings() -> str:
        return subprocess.run(
            ["sysctl", "-n", "net.ipv4.ip_forward"], capture_output=True, text=True, check=False
        ).stdout

    before, journal = settings(), Journal(tmp_path / "journal")
    try:
        make_network(journal, new_id())
        assert settings() == before
    finally:
        teardown(journal)

"""Host configuration: nova's words, and errors that say where, what, and what is allowed."""

import pytest

from numaferry.errors import InvalidInput
from numaferry.model import CpuSet, ReservedPages
from numaferry.service.config import HostEntry, parse, pick

FULL = """
[[host]]
name = "a"
uri = "qemu+tls://a/system"
cpu_dedicated_set = "2-7,^5"
cpu_shared_set = "0-1"
migration_cpu_set = "1"
reserved_host_memory_mb = 1024
reserved_huge_pages = ["node:0,size:2048,count:64", "node:1,size:1GB,count:2"]
cpu_allocation_ratio = 4.0
ram_allocation_ratio = 1.5
physical_networks = { physnet0 = "ens4f0" }
physical_network_cells = { physnet0 = [1, 0, 1] }
migration_address = "10.0.0.1"
peer_uri = "qemu+tls://10.0.0.1/system"
"""


def test_every_key_of_nova_is_read():
    (entry,) = parse(FULL, where="hosts.toml")
    config = entry.config
    assert (entry.name, entry.uri) == ("a", "qemu+tls://a/system")
    assert config.cpu_dedicated_set == CpuSet.parse("2-4,6-7")
    assert config.cpu_shared_set == CpuSet.parse("0-1")
    assert config.migration_cpu_set == config.migration_cpus == CpuSet.parse("1")
    assert config.reserved_huge_pages == (ReservedPages(0, 2048, 64), ReservedPages(1, 1048576, 2))
    assert (config.reserved_host_memory_mb, config.cpu_allocation_ratio, config.ram_allocation_ratio) == (1024, 4, 1.5)
    assert config.link_of("physnet0") == "ens4f0"
    assert config.physical_network_cells == (("physnet0", (0, 1)),)
    assert (config.migration_address, config.peer_uri) == ("10.0.0.1", "qemu+tls://10.0.0.1/system")


def test_migrations_run_on_the_shared_set_where_nothing_is_said():
    (entry,) = parse('[[host]]\ncpu_shared_set = "0-1"\n', where="f")
    assert entry.config.migration_cpu_set == CpuSet()
    assert entry.config.migration_cpus == CpuSet.parse("0-1")


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        ("[[host]\n", ["not valid TOML", "line 1"], "docs/cli.md"),
        ("", ["no [[host]] table"], "one [[host]] table"),
        ("[default]\nx = 1\n", ["unknown table or key 'default'"], "[[host]]"),
        ('[[host]]\nname = "a"\ncpu_dedicated = "1"\n', ["line 3", "host a", "'cpu_dedicated'"], "cpu_dedicated_set"),
        (
            '[[host]]\nname = "a"\n\n[[host]]\nname = "b"\ncpu_dedicated_set = "3-1"\n',
            ["line 6", "host b", "cpu_dedicated_set = '3-1'"],
            '"2-15,^8"',
        ),
        ('[[host]]\nmigration_cpu_set = "x"\n', ["line 2", "migration_cpu_set = 'x'"], "without dedicated CPUs"),
        ('[[host]]\nreserved_host_memory_mb = "much"\n', ["line 2", "'much'"], "whole number"),
        ("[[host]]\nreserved_host_memory_mb = -1\n", ["-1"], "whole number"),
        ("[[host]]\nphysical_network_cells = { physnet0 = [-1] }\n", ["line 2", "[-1]"], "cell ids"),
        ('[[host]]\nreserved_huge_pages = ["64"]\n', ["['64']", "node:N"], "node:0,size:2048"),
        ("[[host]]\ncpu_allocation_ratio = 0\n", ["cpu_allocation_ratio = 0"], "above 0"),
        ('[[host]]\nphysical_networks = "ens3"\n', ["'ens3'"], "table such as"),
        ('[[host]]\nname = "a b"\n', ["'a b'"], "letters"),
    ],
)
def test_a_fault_is_told_in_one_line_with_place_value_and_what_is_allowed(text, words, hint):
    with pytest.raises(InvalidInput) as caught:
        parse(text, where="hosts.toml")
    for word in ("hosts.toml", *words):
        assert word in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message


def test_the_entry_of_a_host_is_picked_by_its_name():
    entries = parse('[[host]]\nname = "a"\n[[host]]\nname = "b"\n', where="f")
    assert pick(entries, "b", where="f").name == "b"
    with pytest.raises(InvalidInput, match="0 entries for host 'c'"):
        pick(entries, "c", where="f")
    assert pick(entries[:1], "", where="f").name == "a"
    nameless = parse('[[host]]\ncpu_shared_set = "0"\n', where="f")
    assert isinstance(pick(nameless, "c", where="f"), HostEntry)

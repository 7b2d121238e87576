"""Sockets, cores and threads, preferred as nova prefers them."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from numaferry.errors import InvalidRequest
from numaferry.model import Flavor
from numaferry.request import get_best_cpu_topology

#: Time limits say nothing of a law where the machine is shared.
on_a_busy_machine = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def best(specs=None, image=None, vcpus=8, **more):
    flavor = Flavor("m1", vcpus, 1024, tuple((specs or {}).items()))
    return str(get_best_cpu_topology(flavor, image or {}, **more))


@pytest.mark.parametrize(
    ("specs", "image", "expected"),
    [
        ({}, {}, "8:1:1"),
        ({"hw:cpu_max_sockets": "2"}, {}, "2:4:1"),
        ({"hw:cpu_sockets": "2", "hw:cpu_threads": "2"}, {}, "2:2:2"),
        ({"hw:cpu_threads": "2"}, {}, "4:1:2"),
        ({"hw:cpu_max_sockets": "2", "hw:cpu_max_cores": "2"}, {}, "2:2:2"),
        ({"hw:cpu_sockets": "4"}, {"hw_cpu_cores": "8"}, "1:8:1"),
        ({"hw:cpu_sockets": "4"}, {"hw_cpu_max_sockets": "2"}, "2:4:1"),
        ({"hw:cpu_max_threads": "1", "hw:cpu_threads": "2"}, {}, "8:1:1"),
    ],
)
def test_preferred_topology(specs, image, expected):
    assert best(specs, image) == expected


def test_a_preference_that_is_no_product_gives_the_nearest():
    assert best({"hw:cpu_sockets": "3", "hw:cpu_cores": "4"}) == "2:4:1"


def test_without_threads_cores_take_their_place():
    assert best({"hw:cpu_threads": "2", "hw:cpu_max_sockets": "1"}, allow_threads=False) == "1:8:1"


@pytest.mark.parametrize(
    ("code", "specs", "image", "quoted"),
    [
        ("ImageVCPULimitsRangeExceeded", {"hw:cpu_max_cores": "2"}, {"hw_cpu_max_cores": "4"}, "0:4:0"),
        ("ImageVCPUTopologyRangeExceeded", {"hw:cpu_max_cores": "2"}, {"hw_cpu_cores": "4"}, "0:4:0"),
        ("ImageVCPULimitsRangeImpossible", {"hw:cpu_max_sockets": "1", "hw:cpu_max_cores": "3"}, {}, "8 vCPUs"),
        ("InvalidRequest", {"hw:cpu_sockets": "many"}, {}, "'many'"),
        ("InvalidRequest", {}, {"hw_cpu_max_threads": "-1"}, "'-1'"),
    ],
)
def test_invalid_topology_has_novas_name(code, specs, image, quoted):
    more = {"allow_threads": False} if code.endswith("Impossible") else {}
    with pytest.raises(InvalidRequest) as caught:
        best(specs, image, **more)
    assert caught.value.code == code
    assert quoted in caught.value.message


@on_a_busy_machine
@given(st.integers(1, 64), st.sampled_from([0, 1, 2, 4]), st.sampled_from([0, 1, 2, 4]))
def test_law_the_product_is_the_number_of_vcpus(vcpus, sockets, threads):
    found = get_best_cpu_topology(
        Flavor("m1", vcpus, 64, (("hw:cpu_sockets", str(sockets)), ("hw:cpu_threads", str(threads))))
    )
    assert found.sockets * found.cores * found.threads == vcpus

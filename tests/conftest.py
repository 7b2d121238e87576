"""For every room: the labs, laws without time limits, and skips that are failures where everything is required.

A skip is allowed then only if tests/not-here.toml lists the test with a reason.
"""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))
pytest_plugins = ["labs", "databases"]

# a busy machine is no counterexample
settings.register_profile("numaferry", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# In CI every run of a commit tries the same examples: what fails there fails again; new examples are sought elsewhere.
settings.register_profile("ci", settings.get_profile("numaferry"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "numaferry")

NOT_HERE = tomllib.loads((Path(__file__).parent / "not-here.toml").read_text(encoding="utf-8"))
REQUIRE_ALL = os.environ.get("NUMAFERRY_REQUIRE_ALL") == "1"
#: The property under which a report carries why its test may be skipped.
ALLOWED = "not-here"
permitted: dict[str, str] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Turn a skip that nobody allowed into a failure."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        node = item.nodeid.split("[")[0]
        if node in NOT_HERE:
            report.user_properties.append((ALLOWED, NOT_HERE[node]["reason"]))
        elif REQUIRE_ALL:
            report.outcome = "failed"
            report.longrepr = (
                f"skipped although NUMAFERRY_REQUIRE_ALL=1 and not listed in not-here.toml: {report.longrepr}"
            )
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Turn a whole module's skip into a failure likewise."""
    report = yield
    if report.skipped and REQUIRE_ALL:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} skipped as a whole under NUMAFERRY_REQUIRE_ALL=1: {report.longrepr}"
    return report


def pytest_runtest_logreport(report):
    """Collect the skips that are allowed, also those of another process."""
    for name, reason in report.user_properties:
        if name == ALLOWED:
            permitted[report.nodeid] = reason


def pytest_terminal_summary(terminalreporter):
    """Print what this machine could not show, and why."""
    if permitted:
        terminalreporter.section("not shown on this machine (tests/not-here.toml)")
        for node, reason in sorted(permitted.items()):
            terminalreporter.line(f"{node}: {reason}")

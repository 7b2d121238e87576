"""The whole demo on emulated hosts, in `make soak`: clean, and with every proof spoiled, when it must fail.

On two cores it takes seven minutes, a quarter of what `make test` may take. There the same demo plays on the smaller
labs (test_small_demos.py), and what is particular to emulated hosts has tests of its own.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from numaferry.demo.story import PROOFS


@pytest.mark.hosts
@pytest.mark.soak
@pytest.mark.parametrize("sabotage", ["", "each"])
def test_hosts_demo_passes_and_each_of_its_proofs_fails_when_spoiled(sabotage):
    ran = subprocess.run(
        [sys.executable, "-m", "numaferry.demo"],
        env={**os.environ, "LAB": "hosts", "KEEP": "", "SABOTAGE": sabotage},
        capture_output=True,
        text=True,
        timeout=890,
        check=False,
    )
    log = Path("build") / f"demo-{sabotage or 'plain'}.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text(ran.stdout + ran.stderr, encoding="utf-8")
    assert ran.returncode == 0, f"{ran.stdout[-4000:]}\n{ran.stderr}\n(whole output: {log})"
    spoiled = {int(number) for number in re.findall(r"proof (\d+) failed as it must", ran.stdout)}
    shown = {int(number) for number in re.findall(r"(?m)^PROOF (\d+):", ran.stdout)}
    assert shown == set(range(1, PROOFS + 1))
    assert spoiled == (shown if sabotage else set())

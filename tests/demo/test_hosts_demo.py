"""The whole demo on real hosts; in `make soak` every proof is looked at clean, then spoiled, when it must fail.

On the smaller labs each is spoiled in `make test` too (test_small_demos.py).
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from numaferry.demo.story import PROOFS


@pytest.mark.hosts
@pytest.mark.parametrize("sabotage", ["", pytest.param("each", marks=pytest.mark.soak)])
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

"""The whole demo on real hosts, every proof looked at clean, then spoiled, when it must fail."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from numaferry.demo.story import PROOFS


@pytest.mark.hosts
def test_hosts_demo_passes_and_each_of_its_proofs_fails_when_spoiled():
    ran = subprocess.run(
        [sys.executable, "-m", "numaferry.demo"],
        env={**os.environ, "LAB": "hosts", "KEEP": "", "SABOTAGE": "each"},
        capture_output=True,
        text=True,
        timeout=890,
        check=False,
    )
    log = Path("build") / "demo-each.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text(ran.stdout + ran.stderr, encoding="utf-8")
    assert ran.returncode == 0, f"{ran.stdout[-4000:]}\n{ran.stderr}\n(whole output: {log})"
    spoiled = {int(number) for number in re.findall(r"proof (\d+) failed as it must", ran.stdout)}
    shown = {int(number) for number in re.findall(r"(?m)^PROOF (\d+):", ran.stdout)}
    assert spoiled == shown == set(range(1, PROOFS + 1))

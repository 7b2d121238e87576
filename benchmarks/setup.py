"""Install nova into an environment of its own, build/bench/nova-venv: what benchmarks compare with, no dependency.

`make bench-setup`; a second run does nothing.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NOVA = "nova==34.0.0"
ENVIRONMENT = Path("build/bench/nova-venv")


def nova_python() -> Path:
    """Return the interpreter that has nova, installing it first where it is missing; raises CalledProcessError."""
    python = ENVIRONMENT / "bin" / "python"
    stamp = ENVIRONMENT / ".installed"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == NOVA:
        return python
    print(f"installing {NOVA} into {ENVIRONMENT} (some minutes)", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", NOVA], check=True)
    stamp.write_text(NOVA, encoding="utf-8")
    return python


if __name__ == "__main__":
    print(nova_python())

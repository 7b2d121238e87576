"""Running the machine's tools: a list of words in, its output out, every call bounded in time."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from numaferry.errors import EnvironmentLacking
from numaferry.lab.place import inherited_lock

if TYPE_CHECKING:
    from collections.abc import Sequence


def run(argv: Sequence[str], *, timeout_s: float = 30, hint: str = "") -> str:
    """Run `argv` and return what it wrote to standard output.

    Raises EnvironmentLacking, quoting the command and the last line it said, when it is missing, fails or takes
    longer than `timeout_s` seconds: the lab asks nothing unusual of a tool, so a refusal is the machine's.
    """
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            pass_fds=inherited_lock(),
        )
    except FileNotFoundError as error:
        raise EnvironmentLacking(f"{argv[0]} is not installed", hint=hint or "run tools/setup as root") from error
    except subprocess.TimeoutExpired as error:
        raise EnvironmentLacking(f"`{' '.join(argv)}` took longer than {timeout_s:g} s", hint=hint) from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise EnvironmentLacking(f"`{' '.join(argv)}` ended with {done.returncode}: {said}", hint=hint)
    return done.stdout

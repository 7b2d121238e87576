"""Fail when a change to what users see comes without a changelog fragment.

A release note is asked for by the thread itself ("make sure there's a suitable release note"). Fragments are
`changelog.d/NAME.TYPE.md` with the types of pyproject.toml; `towncrier build` makes CHANGELOG.md from them.
The check compares with the commit before the change (`--base`, default: the root commit's children are all new).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def fragment_types() -> set[str]:
    """Return the fragment types that pyproject.toml declares."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return {row["directory"] for row in settings["tool"]["towncrier"]["type"]}


def misnamed(directory: Path, types: set[str]) -> list[str]:
    """Return the fragments whose name or text towncrier would drop: wrong type, or empty."""
    bad = []
    for path in sorted(directory.glob("*.md")):
        parts = path.name.split(".")
        if len(parts) != 3 or parts[1] not in types:  # NAME.TYPE.md
            bad.append(f"{path.name}: expected NAME.TYPE.md with TYPE one of {', '.join(sorted(types))}")
        elif not path.read_text(encoding="utf-8").strip():
            bad.append(f"{path.name}: empty")
    return bad


def changed_since(base: str) -> list[str]:
    """Return the paths changed since a commit, committed or not; an empty list where git knows no such commit."""
    words = ["git", "diff", "--name-only", base]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else []


def main() -> int:
    """Check and return the exit code."""
    parser = argparse.ArgumentParser(description="every user-visible change has a changelog fragment")
    parser.add_argument("--base", default="", help="compare with this commit as well")
    base = parser.parse_args().base
    types = fragment_types()
    problems = misnamed(ROOT / "changelog.d", types)
    if not list((ROOT / "changelog.d").glob("*.md")) and not (ROOT / "CHANGELOG.md").exists():
        problems.append("no fragment in changelog.d and no CHANGELOG.md: nothing tells operators what there is")
    if base:
        changed = changed_since(base)
        product = [path for path in changed if path.startswith("src/")]
        if product and not [path for path in changed if path.startswith("changelog.d/")]:
            problems.append(f"{len(product)} files under src/ changed since {base} and no fragment in changelog.d")
    for problem in problems:
        sys.stderr.write(f"changelog: {problem}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

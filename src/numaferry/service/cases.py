"""Run a file of neutral fit cases, one answer per line (`numaferry fit --cases`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numaferry.errors import InvalidInput, InvalidRequest
from numaferry.fit import cases, numa_fit_instance_to_host
from numaferry.request import numa_get_constraints

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def run_cases(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the answer to each case of a file, in its order: id, verdict, error?, cells, pci, reasons.

    Raises InvalidInput that names file and line where a line is no case of the format.
    """
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            case = json.loads(line)
            answer = run_case(case)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(
                f"{path}:{number}: not a fit case: {type(error).__name__}: {error}",
                hint="each line is one JSON object with id, host, limits and guest; see docs/fit.md",
            ) from error
        yield answer


def run_case(case: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer to one case."""
    try:
        request = numa_get_constraints(cases.flavor_of(case), aliases=cases.ALIASES)
    except InvalidRequest as error:
        return cases.invalid(case, error.code, error.message)
    if not request.cells:
        return cases.no_numa(case)
    return cases.answer_of(case, numa_fit_instance_to_host(cases.host_of(case), request))


def _lines(path: str | Path) -> Iterator[str]:
    try:
        with Path(path).open(encoding="utf-8") as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"can't read the cases in {path}: {error}", hint="give a file of JSON lines") from error

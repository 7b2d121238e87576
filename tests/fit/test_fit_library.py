"""The fit as a library on its own: the example in the documents, and what importing it costs."""

import json
import re
import subprocess
import sys
from pathlib import Path

FIT = (Path(__file__).parents[2] / "docs" / "fit.md").read_text(encoding="utf-8")
#: Rooms and packages that answering one question needs nothing of.
OUTSIDE = {"libvirt", "sqlalchemy", "alembic", "lxml", "pydantic", "click", "rich", "sqlite3"}


def python(code):
    """Run code in an interpreter of its own and return what it printed."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout


def test_the_example_of_the_documents_prints_what_they_say():
    code, printed = re.search(r"(?ms)^```python\n(.*?)^```\n\nprints\n\n```\n(.*?)^```", FIT).groups()
    assert python(code) == printed


def test_importing_the_fit_brings_no_libvirt_no_database_and_no_other_room():
    modules = json.loads(python("import sys, json; from numaferry import fit; print(json.dumps(list(sys.modules)))"))
    assert not OUTSIDE & {name.partition(".")[0] for name in modules}
    rooms = {name.split(".")[1] for name in modules if name.startswith("numaferry.")}
    assert rooms == {"errors", "fit", "model"}

"""Where the demo plays: a lab, its guests, and numaferry run as a user runs it, as a command."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import attrs

from numaferry.errors import NumaferryError
from numaferry.lab import control, guests
from numaferry.lab.guests import GuestSpec, SerialWatch

if TYPE_CHECKING:
    from pathlib import Path

    from numaferry.lab.model import Lab, LabHost

NAME = "demo"


class DemoFailed(NumaferryError):
    """A step of the demo did not do what it should, or a proof found otherwise."""

    code = "demo-failed"
    exit_code = 1


@attrs.define
class Teller:
    """Prints the story; `label` stands before every line of a demo that is not on real hosts."""

    label: str = ""

    def line(self, text: str = "") -> None:
        """Print one line, or several, each with the label; raises DemoFailed once nobody reads any more."""
        try:
            for part in text.splitlines() or [""]:
                sys.stdout.write(f"{self.label}{part}\n")
            sys.stdout.flush()
        except BrokenPipeError as error:
            # what is told from here on (the lab's end) goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise DemoFailed("nobody reads the demo's output any more") from error


@attrs.define
class Stage:
    """A lab with two hosts, `source` (A) and `dest` (B), a ledger of its own, and the watches of the guests' counters.

    `folder` lies inside the lab's directory, so that whatever takes the lab down removes it too.
    """

    lab: Lab
    teller: Teller
    watches: dict[str, SerialWatch] = attrs.field(factory=dict)

    @classmethod
    def up(cls, kind: str, teller: Teller, notations: tuple[str, ...]) -> Stage:
        """Take down what an earlier demo left, bring a fresh lab up."""
        if control.status(NAME).state == "up":
            teller.line("a lab of an earlier demo is still up: it is taken down now, and its ledger with it")
        control.down(name=NAME, say=teller.line)
        lab = control.up(kind, name=NAME, notations=notations, say=teller.line)  # type: ignore[arg-type]
        stage = cls(lab, teller)
        stage.folder.mkdir(mode=0o700, exist_ok=True)
        return stage

    @property
    def folder(self) -> Path:
        """Where the demo keeps its ledger and files."""
        return self.lab.directory / "run" / "demo"

    @property
    def source(self) -> LabHost:
        """Host A, where db1 starts."""
        return self.lab.hosts[0]

    @property
    def dest(self) -> LabHost:
        """Host B."""
        return self.lab.hosts[1]

    @property
    def ledger_file(self) -> Path:
        """The file of the demo's own ledger."""
        return self.folder / "ledger.sqlite"

    @property
    def ledger_url(self) -> str:
        """The demo's own ledger."""
        return f"sqlite:///{self.ledger_file}"

    @property
    def environment(self) -> dict[str, str]:
        """What a shell needs to use the demo's ledger."""
        return {**os.environ, "NUMAFERRY_DB": self.ledger_url, "PYTHONWARNINGS": "ignore"}

    def command(self, *words: str) -> list[str]:
        """Return the command line of numaferry in this very environment."""
        return [sys.executable, "-m", "numaferry", *words]

    def numaferry(self, *words: str, expect: int | None = 0) -> str:
        """Run a numaferry command, show it and what it prints as it prints it, and return the output.

        Raises DemoFailed where it ends with another exit code than `expect` (None: any).
        """
        self.teller.line(f"$ numaferry {shlex.join(words)}")
        process = subprocess.Popen(
            self.command(*words),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        said: list[str] = []
        assert process.stdout is not None  # noqa: S101 - it was asked for two lines above
        for line in process.stdout:
            said.append(line)
            self.teller.line(f"  {line.rstrip()}")
        code = process.wait()
        if expect is not None and code != expect:
            raise DemoFailed(f"`numaferry {shlex.join(words)}` ended with {code}, expected {expect}")
        return "".join(said)

    def ask(self, *words: str) -> Any:
        """Run a numaferry command quietly and return the JSON that it prints."""
        done = subprocess.run(
            [*self.command(*words), "-f", "json"],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        if done.returncode != 0:
            raise DemoFailed(f"`numaferry {shlex.join(words)}` ended with {done.returncode}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def virsh(self, host: LabHost, *words: str, check: bool = True, show: bool = False) -> str:
        """Run virsh against a host, as an operator would, and return what it prints; raises DemoFailed."""
        if show:
            self.teller.line(f"$ virsh -c {host.uri} {shlex.join(words)}")
        done = subprocess.run(
            ["virsh", "-c", host.uri, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        if show and done.stdout.strip():
            self.teller.line("  " + done.stdout.strip())
        if check and done.returncode != 0:
            raise DemoFailed(f"virsh {shlex.join(words)} on {host.name}: {done.stderr.strip()}")
        return done.stdout

    def start_guest(self, host: LabHost, spec: GuestSpec, *, timeout_s: float = 180) -> SerialWatch:
        """Define and start a lab guest, and wait until its counter runs."""
        local = self.lab.share / spec.serial.name
        watch = SerialWatch.of_new(local)
        xml = self.folder / f"{spec.name}.xml"
        xml.write_text(guests.domain_xml(spec), encoding="utf-8")
        self.virsh(host, "define", str(xml))
        self.virsh(host, "start", spec.name)
        watch.until_count(3, timeout_s)
        self.watches[spec.name] = watch
        return watch

    def watch_anew(self, name: str, text: str = "") -> None:
        """Empty a guest's serial file (but for `text`) and watch it from there."""
        path = self.watches[name].path
        path.write_text(text, encoding="utf-8")
        self.watches[name] = SerialWatch(path)

    def forget_guest(self, host: LabHost, name: str) -> None:
        """Destroy and undefine a throw-away guest of the demo's own."""
        self.virsh(host, "destroy", name, check=False)
        self.virsh(host, "undefine", name, check=False)
        self.watches.pop(name, None)

    def down(self) -> None:
        """Take the lab down; nothing is left behind."""
        control.down(name=NAME, say=self.teller.line)

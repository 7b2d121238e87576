"""The exec channel's outer end against a port that behaves as QEMU's does: one stream, no notion of who reads it."""

import base64
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from numaferry.errors import HostUnreachable
from numaferry.lab.channel import ExecResult, request

Answer = Callable[[str, str], bytes]


def frame(mark: str, output: bytes, code: int) -> bytes:
    """Return an answer as the host's script writes it: base64 in lines of 76."""
    return f"\nNFB {mark}\n".encode() + base64.encodebytes(output) + f"NFE {mark} {code}\n".encode()


class Port:
    """A unix socket that answers each whole request line with `answer(mark, command)`, to whoever is connected."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self.path = path
        self._answer = answer
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            client, _ = self._server.accept()
            with client, client.makefile("rb") as lines:
                for line in lines:
                    words = line.decode().split()
                    if words == ["stop"]:
                        return
                    if len(words) == 5 and words[0] == "NFX" and words[4] == ".":
                        client.sendall(self._answer(words[1], base64.b64decode(words[3]).decode()))

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.path))
            client.sendall(b"\nstop\n")
            self._thread.join()
        self._server.close()


@pytest.fixture
def port(tmp_path: Path) -> Iterator[Callable[[Answer], Path]]:
    opened: list[Port] = []

    def make(answer: Answer) -> Path:
        opened.append(Port(tmp_path / "exec.sock", answer))
        return opened[-1].path

    yield make
    for each in opened:
        each.close()


def test_output_and_exit_code_come_back(port: Callable[[Answer], Path]) -> None:
    path = port(lambda mark, command: frame(mark, f"did {command}\n".encode(), 7))
    assert request(path, "something", 5) == ExecResult(exit_code=7, output="did something\n")


def test_what_a_dead_client_left_unread_is_skipped(port: Callable[[Answer], Path]) -> None:
    stale = frame("0123456789abcdef", b"of another\n", 1) + b"NFB half a fra"
    path = port(lambda mark, _: stale + frame(mark, b"mine\n", 0))
    assert request(path, "x", 5).output == "mine\n"


def test_a_request_cut_short_does_not_spoil_the_next(port: Callable[[Answer], Path]) -> None:
    path = port(lambda mark, command: frame(mark, command.encode(), 0))
    with socket.socket(socket.AF_UNIX) as dying:
        dying.connect(str(path))
        dying.sendall(b"\nNFX 0123456789abcdef 60 cm0gLXJmIC")
    assert request(path, "echo", 5).output == "echo"


def test_large_outputs_come_back_whole(port: Callable[[Answer], Path]) -> None:
    output = bytes(range(32, 127)) * 20_000
    path = port(lambda mark, _: frame(mark, output, 0))
    assert request(path, "x", 5).output.encode() == output


def test_many_clients_at_once_each_get_their_own(port: Callable[[Answer], Path]) -> None:
    path = port(lambda mark, command: frame(mark, command.encode(), 0))
    results: dict[int, str] = {}

    def ask(number: int) -> None:
        results[number] = request(path, f"number {number}", 20).output

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: f"number {number}" for number in range(12)}


def test_a_host_that_says_nothing_is_unreachable_and_the_wait_is_told(port: Callable[[Answer], Path]) -> None:
    path = port(lambda _mark, _command: b"\nlogin: ")
    with pytest.raises(HostUnreachable, match=r"no answer within 0\.3 s"):
        request(path, "x", 0.2, grace_s=0.1)


def test_a_socket_path_beyond_the_limit_of_unix_sockets_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    monkeypatch.chdir(deep)
    server = Port(Path("exec.sock"), lambda mark, _: frame(mark, b"deep", 0))
    try:
        assert request(deep / "exec.sock", "x", 5).output == "deep"
    finally:
        server.close()

"""The first process of a namespace host: makes the host's own view of the machine, runs libvirtd, and reaps.

Run as a script with the interpreter's isolated mode inside fresh mount, UTS, IPC and PID namespaces; it uses the
standard library alone and takes one argument, a JSON object:

    hostname  the host's name
    binds     [[source, target], …] files and folders of the lab put over the machine's, in this order
    share     [source, target] the folder that all hosts share; the target is made
    daemon    the command to run; where it was killed it is started again, as a host's service manager would do; when it
              ends by itself, this process ends, and the kernel kills everything else in the host

It also plays udev for one kind of device. The node of a macvtap, /dev/tapN, is named after the link's index in *its*
network namespace, but all namespaces have one devtmpfs: two hosts whose links have the same index would get the same
name, and one guest the other's network. So /dev is the host's own, and the kernel's events of this network namespace
(which are told to no other) say which node to make.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

NETLINK_KOBJECT_UEVENT = 15
# what QEMU and libvirt look for; nodes that this machine lacks are left out
DEVICES = (
    "null",
    "zero",
    "full",
    "random",
    "urandom",
    "tty",
    "kvm",
    "vhost-net",
    "vhost-vsock",
    "net/tun",
    "vfio/vfio",
)
LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}
MOUNTS = (
    ("devpts", "pts", "newinstance,ptmxmode=0666,mode=620,gid=5"),
    ("tmpfs", "shm", "mode=1777"),
    ("hugetlbfs", "hugepages", "pagesize=2M"),
)


def mount(*words: str) -> None:
    """Call the mount tool with these words; a failure is told on standard error and ends this process."""
    subprocess.run(["mount", *words], check=True)


def make_devices() -> None:
    """Put a /dev of the host's own over the machine's, with the nodes of `DEVICES`."""
    numbers = {}
    for name in DEVICES:
        with contextlib.suppress(FileNotFoundError):
            status = Path("/dev", name).stat()
            numbers[name] = (stat.S_IMODE(status.st_mode), status.st_rdev)
    mount("-t", "tmpfs", "-o", "mode=755,size=1M", "dev", "/dev")
    for name, (mode, number) in numbers.items():
        make_node(Path("/dev", name), mode, number)
    for name, where in LINKS.items():
        Path("/dev", name).symlink_to(where)
    for kind, name, options in MOUNTS:
        Path("/dev", name).mkdir()
        with contextlib.suppress(subprocess.CalledProcessError):  # a kernel without 2 MiB pages still has 4 KiB guests
            mount("-t", kind, "-o", options, kind, f"/dev/{name}")


def make_node(path: Path, mode: int, number: int) -> None:
    """Make a character device; an older one of that name is replaced."""
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    os.mknod(path, stat.S_IFCHR | mode, number)


def arrange(config: dict[str, object], binds: list[list[str]], share: list[str]) -> None:
    """Make the host's view: name, /run, share, files, /sys of its network, /dev; nothing goes back outside."""
    socket.sethostname(str(config["hostname"]))
    mount("--make-rprivate", "/")
    mount("-t", "tmpfs", "-o", "mode=755", "run", "/run")
    source, target = share
    Path(target).mkdir(parents=True)
    mount("--bind", source, target)
    for source, target in binds:
        mount("--bind", source, target)
    # over the old one, whose network links are another namespace's, and whose control groups are not for this host
    mount("-t", "sysfs", "sysfs", "/sys")
    make_devices()


def on_event(message: bytes) -> None:
    """Make or remove the node of a macvtap as a kernel event says (NAME=value fields, separated by zero bytes)."""
    fields = dict(part.split("=", 1) for part in message.decode("latin-1").split("\0") if "=" in part)
    if fields.get("SUBSYSTEM") != "macvtap" or "DEVNAME" not in fields:
        return
    path = Path("/dev", fields["DEVNAME"])
    if fields["ACTION"] == "add":
        make_node(path, 0o600, os.makedev(int(fields["MAJOR"]), int(fields["MINOR"])))
    elif fields["ACTION"] == "remove":
        path.unlink(missing_ok=True)


def reap(daemon: int) -> int | None:
    """Take every ended child; return the daemon's exit code once it is among them."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == daemon:
                return os.waitstatus_to_exitcode(ended[1])
    return None


def main() -> int:
    """Arrange, start the daemon, and serve events and orphans until the daemon ends."""
    config = json.loads(sys.argv[1])
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT) as events:
        events.bind((0, 1))
        arrange(config, config["binds"], config["share"])
        # an ended child interrupts the wait below through this pipe; libvirtd's orphaned probes among them
        wake, signalled = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(signalled)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        daemon = subprocess.Popen(config["daemon"], stdin=subprocess.DEVNULL).pid
        while True:
            select.select([events.fileno(), wake], [], [])
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 4096)
            with contextlib.suppress(BlockingIOError):
                while True:
                    on_event(events.recv(8192))
            code = reap(daemon)
            if code is not None and code < 0:
                daemon = subprocess.Popen(config["daemon"], stdin=subprocess.DEVNULL).pid
            elif code is not None:
                sys.stderr.write(f"{config['daemon'][0]} ended with {code}\n")
                return 1


if __name__ == "__main__":
    sys.exit(main())

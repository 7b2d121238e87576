"""A certificate authority of a test's own, by the openssl command: good certificates, and two kinds of bad ones."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_CA = """
[ca]
default_ca = own
[own]
dir = {folder}
database = {folder}/index.txt
serial = {folder}/serial
new_certs_dir = {folder}
certificate = {folder}/cacert.pem
private_key = {folder}/cakey.pem
default_md = sha256
policy = any
unique_subject = no
copy_extensions = copy
[any]
commonName = supplied
"""
#: Begin and end of a certificate (ASN.1 time): one that is valid for as long as anybody tests, one that was once.
VALID = ("20200101000000Z", "20491231235959Z")
EXPIRED = ("20200101000000Z", "20200102000000Z")


class Authority:
    """Makes certificates in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        (folder / "index.txt").write_text("")
        (folder / "serial").write_text("01\n")
        (folder / "ca.cnf").write_text(_CA.format(folder=folder))
        self._openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3650"),
            *("-subj", "/CN=numaferry test", "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
            *("-keyout", str(folder / "cakey.pem"), "-out", str(folder / "cacert.pem")),
        )

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)

    def issue(self, place: Path, address: str, *, when: tuple[str, str] = VALID) -> Path:
        """Put CA, certificate and key for an IP address into a new folder, by the names that QEMU and libvirt want."""
        place.mkdir(parents=True)
        key, wish, made = place / "key.pem", place / "wish.pem", place / "cert.pem"
        self._openssl(
            *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj"),
            *(f"/CN={address}", "-addext", f"subjectAltName=IP:{address}"),
            *("-addext", "extendedKeyUsage=serverAuth,clientAuth", "-keyout", str(key), "-out", str(wish)),
        )
        self._openssl(
            *("ca", "-batch", "-notext", "-config", str(self.folder / "ca.cnf"), "-startdate", when[0]),
            *("-enddate", when[1], "-in", str(wish), "-out", str(made)),
        )
        names = {
            "cacert.pem": self.folder / "cacert.pem",
            "ca-cert.pem": self.folder / "cacert.pem",
            **{f"{side}{dash}cert.pem": made for side in ("server", "client") for dash in ("", "-")},
            **{f"{side}{dash}key.pem": key for side in ("server", "client") for dash in ("", "-")},
        }
        contents = {name: path.read_bytes() for name, path in names.items()}
        for name, content in contents.items():
            (place / name).write_bytes(content)
        return place

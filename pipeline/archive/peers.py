"""Who may send, and where results go: application entities (AE) by title and address."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.records.errors import InputError
from pipeline.records.strict_yaml import read_yaml

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Peers:
    """Calling AE titles that are let in, each from one network or, with None, from anywhere; empty lets all in."""

    networks: Mapping[str, Network | None]

    def allows(self, title: str, address: str) -> bool:
        """Returns whether an association asked for under this title from this IP address is let in."""
        if not self.networks:
            return True
        if title not in self.networks:
            return False
        network = self.networks[title]
        return network is None or _ip(address) in network


@dataclass(frozen=True)
class Address:
    """An AE that results are sent to."""

    title: str
    host: str
    port: int


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text.partition("%")[0])
    # Where IPv4 callers come to an IPv6 socket.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def parse_titles(text: str) -> Peers:
    """Returns the peers of ``AE[,AE]``; raises `InputError` ``odd-ae-title``."""
    return Peers({checked_title(title): None for title in text.split(",")})


def read_peers(path: Path) -> Peers:
    """Reads YAML lines of ``AE_TITLE: address``, where the address is an IP, a network (``10.0.0.0/24``) or empty.

    Raises:
        InputError: ``odd-ae-title``, ``odd-address``, ``no-peers``, or as `read_yaml` does.
    """
    networks: dict[str, Network | None] = {}
    for title, address in read_yaml(path).items():
        try:
            network = None if address is None else ipaddress.ip_network(str(address), strict=False)
        except ValueError as error:
            raise InputError(f"{path}, {title}", found="no IP address", wanted="an IP address, a network, or nothing",
                             remedy="write it as 10.0.0.5 or 10.0.0.0/24", reason="odd-address") from error
        networks[checked_title(str(title))] = network
    if not networks:
        raise InputError(path, found="no peer", wanted="a line `AE_TITLE: address` for each", reason="no-peers",
                         remedy="name those that may send")
    return Peers(networks)


def parse_address(text: str) -> Address:
    """Returns the parts of ``AE@host:port``; raises `InputError` ``odd-address`` or ``odd-ae-title``."""
    found = re.fullmatch(r"(?P<title>[^@]+)@\[?(?P<host>[^@\[\]\s]+)\]?:(?P<port>[0-9]{1,5})", text)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise InputError(text, found="no address of an AE", wanted="AE@host:port", reason="odd-address",
                         remedy="write it as PACS@10.0.0.5:104")
    return Address(checked_title(found["title"]), found["host"], int(found["port"]))


def checked_stow_url(text: str) -> str:
    """Returns the address of a DICOMweb service without its last slash; raises `InputError` ``odd-address``."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or re.search(r"\s", text):
        raise InputError(text, found="no address of a DICOMweb service", wanted="http://host:port/path",
                         remedy="write it as https://pacs:8042/dicom-web", reason="odd-address")
    if parts.username or parts.password:
        raise InputError(parts.hostname, found="a password in the address", wanted="the address alone",
                         remedy="put the header's value into SEGLINE_STOW_AUTHORIZATION", reason="odd-address")
    return text.rstrip("/")


def checked_title(text: str) -> str:
    """Returns an AE title without the spaces around it; raises `InputError` ``odd-ae-title``. Source: PS3.5, 6.2."""
    title = text.strip(" ")
    if not re.fullmatch(r"[\x20-\x5b\x5d-\x7e]{1,16}", title):
        raise InputError(f"AE title {title!r}", found="an empty or overlong title, or odd signs in it",
                         wanted="1 to 16 ASCII signs, no backslash", remedy="write it as the device has it",
                         reason="odd-ae-title")
    return title

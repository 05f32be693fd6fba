"""Sends DICOM files to one fixed destination, by C-STORE or by DICOMweb STOW-RS, and says for each how it ended."""

import http.client
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from pynetdicom import AE
from pynetdicom.presentation import PresentationContext, build_context

from pipeline.archive.peers import Address
from pipeline.imaging.instances import Instance, read_instance
from pipeline.records.errors import InputError

EXPLICIT_LITTLE, IMPLICIT_LITTLE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
# Stored, with data elements coerced or left out, or with a remark. Source: DICOM PS3.4, table B.2-1.
STORED = {0x0000, 0xB000, 0xB006, 0xB007}
# Source: DICOM PS3.18, table 10.5.3-1: each list of instances, and the UID within an item.
REFERENCED, FAILED, INSTANCE_UID, FAILURE = "00081199", "00081198", "00081155", "00081197"
AUTHORIZATION_VARIABLE = "SEGLINE_STOW_AUTHORIZATION"
ANSWER_BYTES = 1 << 22
COPIED_BYTES = 1 << 20


@dataclass(frozen=True)
class Delivery:
    """How sending one file ended; `detail` is the destination's status, never its text."""

    file: Path
    is_accepted: bool
    detail: str


class Destination(Protocol):
    """Where results go."""

    @property
    def name(self) -> str:
        """Returns it for log lines."""

    def send(self, files: Sequence[Path]) -> tuple[Delivery, ...]:
        """Tries to send each file once; what cannot be sent raises nothing."""


@dataclass(frozen=True)
class DicomDestination:
    """An AE that takes C-STORE.

    Attributes:
        address: of that AE.
        own_title: the calling AE title.
        timeout_seconds: for connecting, and for each answer.
    """

    address: Address
    own_title: str
    timeout_seconds: float = 60.0

    @property
    def name(self) -> str:
        """Returns `AE title by C-STORE`."""
        return f"{self.address.title} by C-STORE"

    def send(self, files: Sequence[Path]) -> tuple[Delivery, ...]:
        """Sends the files through one association."""
        try:
            contexts = _contexts([read_instance(file) for file in files])
        except InputError as error:
            return tuple(Delivery(file, False, f"not a DICOM file ({error.reason})") for file in files)
        entity = AE(ae_title=self.own_title)
        entity.connection_timeout = min(self.timeout_seconds, 10.0)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = self.timeout_seconds
        try:
            association = entity.associate(self.address.host, self.address.port, contexts, ae_title=self.address.title)
        except OSError:  # a name that nobody knows
            return tuple(Delivery(file, False, "no such host") for file in files)
        if not association.is_established:
            detail = "association rejected" if association.is_rejected else "no connection"
            return tuple(Delivery(file, False, detail) for file in files)
        try:
            return tuple(self._send_one(association, file) for file in files)
        finally:
            association.release()

    def _send_one(self, association: Any, file: Path) -> Delivery:
        try:
            answer = association.send_c_store(file)
        except (ValueError, AttributeError, RuntimeError) as error:  # no common encoding, or the association ended
            return Delivery(file, False, f"not sent ({type(error).__name__})")
        if "Status" not in answer:
            return Delivery(file, False, "no answer")
        return Delivery(file, answer.Status in STORED, f"status 0x{answer.Status:04X}")


@dataclass(frozen=True)
class StowDestination:
    """A DICOMweb service that takes STOW-RS.

    Attributes:
        url: of the service; instances are posted to `<url>/studies`.
        timeout_seconds: for connecting, and for each answer.
    """

    url: str
    timeout_seconds: float = 60.0

    @property
    def name(self) -> str:
        """Returns `host by STOW-RS`."""
        return f"{urlsplit(self.url).hostname} by STOW-RS"

    def send(self, files: Sequence[Path]) -> tuple[Delivery, ...]:
        """Posts the files one by one: each answer then speaks of one instance."""
        return tuple(self._send_one(file) for file in files)

    def _send_one(self, file: Path) -> Delivery:
        try:
            uid = read_instance(file).sop_instance_uid
            status, body = self._post(file)
        except InputError as error:
            return Delivery(file, False, f"not a DICOM file ({error.reason})")
        except (OSError, http.client.HTTPException) as error:
            return Delivery(file, False, f"no answer ({type(error).__name__})")
        accepted, detail = judged(status, body, uid)
        return Delivery(file, accepted, detail)

    def _post(self, file: Path) -> tuple[int, bytes]:
        parts = urlsplit(self.url)
        boundary = secrets.token_hex(16)
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Content-Length": str(len(head) + file.stat().st_size + len(tail)),
            "Accept": "application/dicom+json",
        }
        if AUTHORIZATION_VARIABLE in os.environ:
            headers["Authorization"] = os.environ[AUTHORIZATION_VARIABLE]
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=self.timeout_seconds)
        try:
            connection.request("POST", f"{parts.path}/studies", body=_body(head, file, tail), headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read(ANSWER_BYTES)
        finally:
            connection.close()


def judged(status: int, body: bytes, uid: str) -> tuple[bool, str]:
    """Returns whether an answer to STOW-RS says that the instance is stored, and what it says in a few words.

    A service may answer 200 or 202 and list the instance as failed; one that answers 200 and lists nothing is believed.
    """
    if status not in (200, 202):
        return False, f"HTTP {status}"
    try:
        answer = json.loads(body)
        answer = answer[0] if isinstance(answer, list) else answer
        stored = [item[INSTANCE_UID]["Value"][0] for item in answer.get(REFERENCED, {}).get("Value", [])]
        failed = {item[INSTANCE_UID]["Value"][0]: item.get(FAILURE, {}).get("Value", [None])[0]
                  for item in answer.get(FAILED, {}).get("Value", [])}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return status == 200, f"HTTP {status}"
    if uid in failed:
        reason = failed[uid]
        return False, f"HTTP {status}, failure " + (f"0x{reason:04X}" if isinstance(reason, int) else "without reason")
    return uid in stored or (status == 200 and not stored and not failed), f"HTTP {status}"


def _contexts(instances: Sequence[Instance]) -> list[PresentationContext]:
    """Returns one context for each kind of object and encoding; plain ones may also be taken as implicit VR."""
    pairs = sorted({(one.sop_class_uid, one.transfer_syntax) for one in instances})
    return [build_context(kind, [syntax, IMPLICIT_LITTLE] if syntax == EXPLICIT_LITTLE else [syntax])
            for kind, syntax in pairs]


def _body(head: bytes, file: Path, tail: bytes) -> Iterator[bytes]:
    yield head
    with file.open("rb") as stream:
        while piece := stream.read(COPIED_BYTES):
            yield piece
    yield tail

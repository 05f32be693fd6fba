"""Takes DICOM objects by C-STORE into the spool, from those who may send, within limits."""

import logging
import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from socketserver import BaseServer
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

from pynetdicom import AE, _config, evt
from pynetdicom.dsutils import encode_file_meta
from pynetdicom.sop_class import Verification
from pynetdicom.transport import ThreadedAssociationServer

from pipeline.archive.arrivals import Arrivals
from pipeline.archive.peers import Peers
from pipeline.archive.spool import GIB, Spool, SpoolFullError
from pipeline.imaging.instances import can_hold_scan, instance_of
from pipeline.imaging.pseudonyms import pseudonym
from pipeline.records.errors import InputError

logger = logging.getLogger(__name__)
PREAMBLE = b"\x00" * 128 + b"DICM"
# Source: DICOM PS3.4, table B.2-1.
STORED, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
TITLE_UNKNOWN = (0x01, 0x01, 0x03)  # rejected for good, by the user of the service: calling AE title not recognised
REQUEST_BYTES = 1 << 20  # of a request for an association: some hundred kilobytes at most
PDU_BYTES = 1 << 17


@dataclass(frozen=True)
class Door:
    """Where and whom the receiver listens to.

    Attributes:
        host: address to listen at.
        port: 0 for any free one.
        title: our AE title, which callers must call.
        peers: who may call.
        associations: that may be open at once.
        object_bytes: the largest object that is taken; it is held in memory while it arrives.
        request_seconds: for a caller to say what it wants.
        object_seconds: for one object to arrive.
        idle_seconds: without a byte, after which an association is ended.
    """

    host: str = "127.0.0.1"
    port: int = 11112
    title: str = "SEGLINE"
    peers: Peers = field(default_factory=lambda: Peers({}))
    associations: int = 4
    object_bytes: int = 2 * GIB
    request_seconds: float = 10.0
    object_seconds: float = 900.0
    idle_seconds: float = 60.0


class BoundedSocket(socket.socket):
    """A connection that ends by itself when one message brings too many bytes or takes too long."""

    bytes_left = REQUEST_BYTES
    deadline = 0.0

    def allow(self, count: int, *, seconds: float) -> None:
        """Lets the next message have this many bytes and this much time."""
        self.bytes_left = count
        self.deadline = monotonic() + seconds

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Returns what has come; raises `OSError` beyond what is allowed."""
        content = super().recv(bufsize, flags)
        self.bytes_left -= len(content)
        if self.bytes_left < 0 or monotonic() > self.deadline:
            raise OSError("a message beyond the limits")
        return content


class BoundedServer(ThreadedAssociationServer):
    """Accepts bounded connections only, and drops at once those that are far too many."""

    door = Door()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Returns the next connection."""
        accepted, address = super().get_request()
        connection = BoundedSocket(fileno=accepted.detach())
        connection.settimeout(self.door.idle_seconds)
        connection.allow(REQUEST_BYTES, seconds=self.door.request_seconds)
        return connection, address

    def verify_request(self, request: object, client_address: object) -> bool:  # noqa: ARG002
        """Returns whether to go on: one over the limit still gets an answer that says so, many would hold threads."""
        return len(self.active_associations) < 2 * self.door.associations + 2

    def shutdown(self) -> None:
        """Stops accepting and closes the socket, whoever made the server."""
        BaseServer.shutdown(self)
        self.server_close()


class Receiver:
    """A C-STORE and C-ECHO server that puts what it takes into the spool; listens from construction until `stop`.

    Args:
        door: where and whom to listen to.
        spool: gets the objects.
        arrivals: is told what came when.

    Raises:
        InputError: ``cannot-listen`` where the address is taken or not this machine's.
    """

    def __init__(self, door: Door, *, spool: Spool, arrivals: Arrivals) -> None:
        self._door, self._spool, self._arrivals = door, spool, arrivals
        self._counts: WeakKeyDictionary[Any, dict[str, int]] = WeakKeyDictionary()
        self._is_stopping = False
        # Objects of private kinds come with many studies; refusing them would make senders give up the whole study.
        _config.UNRESTRICTED_STORAGE_SERVICE = True
        entity = _entity(door)
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._requested), (evt.EVT_ESTABLISHED, self._established),
            (evt.EVT_DIMSE_RECV, self._message_ended), (evt.EVT_C_ECHO, lambda event: STORED),  # noqa: ARG005
            (evt.EVT_C_STORE, self._stored), (evt.EVT_REJECTED, self._rejected), (evt.EVT_RELEASED, self._ended),
            (evt.EVT_ABORTED, self._ended),
        ]
        try:
            self._server = entity.make_server((door.host, door.port), server_class=BoundedServer,
                                              evt_handlers=handlers)
        except OSError as error:
            raise InputError(f"{door.host}:{door.port}", found=f"no way to listen there ({error.strerror or error})",
                             wanted="a free port of this machine", remedy="choose another --port or --host",
                             reason="cannot-listen") from error
        self._server.door = door
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()
        logger.info("listening at %s:%d as %s", door.host, self.port, door.title)

    def stop(self) -> None:
        """Takes nothing more: no new association, and those that are open are aborted; callable twice."""
        if self._is_stopping:
            return
        self._is_stopping = True
        self._server.shutdown()
        self._thread.join(5.0)
        open_ones = self._server.active_associations
        for association in open_ones:
            association.abort(block=False)
        _wait_for_end(open_ones, seconds=2.0)
        for association in open_ones:
            _cut(association)

    def _requested(self, event: Any) -> None:
        """Rejects callers from elsewhere than their title says, before anything is negotiated."""
        association = event.assoc
        title, address = _caller(association)
        if self._is_stopping or not self._door.peers.allows(title, address):
            association.acse.send_reject(*TITLE_UNKNOWN)
            self._rejected(event)
            association.kill()

    def _rejected(self, event: Any) -> None:
        logger.warning("association rejected: %r from %s", *_caller(event.assoc))

    def _established(self, event: Any) -> None:
        self._counts[event.assoc] = {}
        self._message_ended(event)
        logger.info("association accepted: %r from %s", *_caller(event.assoc))

    def _message_ended(self, event: Any) -> None:
        connection = event.assoc.dul.socket.socket
        if connection is not None:
            # Idle time between messages is bounded by the socket's own timeout and counts here too.
            connection.allow(self._door.object_bytes, seconds=self._door.object_seconds)

    def _ended(self, event: Any) -> None:
        counts = self._counts.pop(event.assoc, None)
        if counts is None:
            return
        how = "released" if event.event is evt.EVT_RELEASED else "aborted"
        objects = ", ".join(f"{count} {word}" for word, count in counts.items()) or "nothing received"
        logger.info("association %s: %r, %s", how, _caller(event.assoc)[0], objects)

    def _stored(self, event: Any) -> int:
        """Answers one C-STORE: success only once the object is safe on disk, or is of a kind that is never needed."""
        status, word = self._keep(event)
        counts = self._counts.setdefault(event.assoc, {})
        counts[word] = counts.get(word, 0) + 1
        return status

    def _keep(self, event: Any) -> tuple[int, str]:
        stream = event.request.DataSet
        if self._is_stopping or stream is None:
            return (OUT_OF_RESOURCES if self._is_stopping else CANNOT_UNDERSTAND), "refused"
        try:
            stream.seek(0)
            instance = instance_of(stream, event.context.transfer_syntax)
            if not can_hold_scan(instance.sop_class_uid):
                return STORED, "set aside"
            study, image = pseudonym(instance.study_uid), f"{pseudonym(instance.sop_instance_uid)}.dcm"
            self._arrivals.note(study, event.assoc)
            pieces: Iterable[bytes | memoryview] = (PREAMBLE, encode_file_meta(event.file_meta), stream.getbuffer())
            self._spool.store(study, image, pieces)
            self._arrivals.note(study, event.assoc)
            return STORED, "stored"
        except InputError as error:
            logger.warning("object refused: %s", error.reason)
            return CANNOT_UNDERSTAND, "refused"
        except (SpoolFullError, OSError) as error:
            logger.warning("object refused: %s", error if isinstance(error, SpoolFullError) else type(error).__name__)
            return OUT_OF_RESOURCES, "refused"


def _entity(door: Door) -> AE:
    entity = AE(ae_title=door.title)
    entity.require_called_aet = True
    entity.require_calling_aet = list(door.peers.networks)
    entity.maximum_associations = door.associations
    entity.maximum_pdu_size = PDU_BYTES
    entity.acse_timeout, entity.dimse_timeout = door.request_seconds, door.object_seconds
    entity.network_timeout = door.idle_seconds
    entity.add_supported_context(Verification)
    return entity


def _caller(association: Any) -> tuple[str, str]:
    """Returns calling AE title and address; whoever called may have sent any signs, so log it with %r."""
    primitive = association.requestor.primitive
    title = str(primitive.calling_ae_title).strip() if primitive is not None else ""
    return title, str(association.requestor.address)


def _wait_for_end(associations: Iterable[threading.Thread], *, seconds: float) -> None:
    deadline = monotonic() + seconds
    for association in associations:
        association.join(max(0.0, deadline - monotonic()))


def _cut(association: Any) -> None:
    """Closes the connection under an association that waits for the rest of a message."""
    connection = association.dul.socket.socket if association.dul.socket is not None else None
    if association.is_alive() and connection is not None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

"""The receiver, called by real senders on loopback: who is let in, what is kept, and where the limits are."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from time import monotonic
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, JPEG2000Lossless
from pynetdicom import AE
from tiny_archive import NO_LIMITS, PATIENT, SEG_CLASS, associate, ct_study, names_below, send, until

from pipeline.archive.arrivals import Arrivals
from pipeline.archive.peers import Peers
from pipeline.archive.receiver import Door, Receiver
from pipeline.archive.spool import Spool, SpoolLimits
from pipeline.imaging.pseudonyms import pseudonym
from pipeline.records.errors import InputError

DOOR = Door(port=0, idle_seconds=5.0, request_seconds=5.0)
VERIFICATION = "1.2.840.10008.1.1"
Open = Callable[..., int]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGLINE_PSEUDONYM_KEY", "key")
    return tmp_path / "spool"


@pytest.fixture
def opened(root: Path) -> Iterator[Open]:
    """Returns a function that opens a receiver with some settings and returns its port."""
    with ExitStack() as stack:
        def open_one(limits: SpoolLimits = NO_LIMITS, **changes: Any) -> int:
            spool = stack.enter_context(Spool(root, limits=limits))
            receiver = Receiver(replace(DOOR, **changes), spool=spool, arrivals=Arrivals(10.0))
            stack.callback(receiver.stop)
            return receiver.port

        yield open_one


def echo(port: int, *, calling: str = "SCANNER", called: str = "SEGLINE") -> int | None:
    """Returns the status of a C-ECHO, None where the association was rejected."""
    entity = AE(ae_title=calling)
    entity.add_requested_context(VERIFICATION)
    association = entity.associate("127.0.0.1", port, ae_title=called)
    if not association.is_established:
        assert association.is_rejected
        return None
    status = association.send_c_echo().Status
    association.release()
    return int(status)


def stored_files(root: Path) -> list[Path]:
    return sorted(root.glob("incoming/*/images/*.dcm"))


# --- who is let in


def test_an_echo_is_answered(opened: Open) -> None:
    assert echo(opened()) == 0x0000


def test_titles_that_are_allowed_and_others(opened: Open) -> None:
    port = opened(peers=Peers({"SCANNER": None}))
    assert (echo(port, calling="SCANNER"), echo(port, calling="STRANGER")) == (0x0000, None)


def test_a_title_that_comes_from_elsewhere(opened: Open) -> None:
    port = opened(peers=Peers({"SCANNER": ip_network("10.0.0.5"), "LOCAL": ip_network("127.0.0.0/8")}))
    assert (echo(port, calling="SCANNER"), echo(port, calling="LOCAL")) == (None, 0x0000)


def test_callers_must_call_our_title(opened: Open) -> None:
    port = opened(title="LIVER")
    assert (echo(port, called="SEGLINE"), echo(port, called="LIVER")) == (None, 0x0000)


def test_more_associations_than_may_be_open(opened: Open) -> None:
    port = opened(associations=1)
    first = associate(port, ct_study("1.2.1"))
    assert first.is_established
    assert echo(port) is None
    first.release()
    until(lambda: echo(port) == 0x0000, "room again")


def test_nobody_is_asked_for_more_than_storage(opened: Open) -> None:
    entity = AE(ae_title="SCANNER")
    find = "1.2.840.10008.5.1.4.1.2.2.1"
    entity.add_requested_context(find)
    entity.add_requested_context(VERIFICATION)
    association = entity.associate("127.0.0.1", opened(), ae_title="SEGLINE")
    assert [context.abstract_syntax for context in association.rejected_contexts] == [find]
    association.release()


def test_a_port_that_is_taken(root: Path, tmp_path: Path, opened: Open) -> None:
    port = opened()
    with Spool(tmp_path / "other", limits=NO_LIMITS) as spool, pytest.raises(InputError) as caught:
        Receiver(replace(DOOR, port=port), spool=spool, arrivals=Arrivals(10.0))
    assert caught.value.reason == "cannot-listen"


# --- what is kept


def test_a_study_lies_under_pseudonyms_and_the_log_names_no_patient(
        opened: Open, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    study = ct_study("1.2.34567")
    assert send(opened(), study) == [0x0000] * 3
    expected = {f"{pseudonym('1.2.34567')}/images/{pseudonym(one.SOPInstanceUID)}.dcm" for one in study}
    assert {path.relative_to(root / "incoming").as_posix() for path in stored_files(root)} == expected
    until(lambda: "released" in caplog.text, "the line at the end")
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("pipeline"))
    assert "'SCANNER', 3 stored" in ours
    for secret in (PATIENT, "Smith", "ID4711", "1.2.34567"):
        assert secret not in ours
        assert not any(secret in name for name in names_below(root))


def test_the_file_is_what_was_sent(opened: Open, root: Path) -> None:
    [content, *_] = ct_study("1.2.1")
    send(opened(), [content])
    kept = pydicom.dcmread(stored_files(root)[0])
    assert kept == content
    assert kept.file_meta.TransferSyntaxUID == content.file_meta.TransferSyntaxUID


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian,
                                    "1.2.840.10008.1.2.4.201"])
def test_any_encoding_is_stored_unchanged(opened: Open, root: Path, syntax: str) -> None:
    [content, *_] = ct_study("1.2.1")
    content.file_meta.TransferSyntaxUID = syntax
    if syntax not in (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian):
        content.PixelData = encapsulate([b"not for us to read"])
        content["PixelData"].is_undefined_length = True
    assert send(opened(), [content]) == [0x0000]
    kept = pydicom.dcmread(stored_files(root)[0])
    assert kept.file_meta.TransferSyntaxUID == syntax
    assert kept.PixelData == content.PixelData


def test_the_same_object_twice(opened: Open, root: Path) -> None:
    [content, *_] = ct_study("1.2.1")
    assert send(opened(), [content, content]) == [0x0000, 0x0000]
    assert len(stored_files(root)) == 1


@pytest.mark.parametrize("kind", [SEG_CLASS, "1.3.12.2.1107.5.9.1"])
def test_objects_that_hold_no_scan_are_taken_and_not_kept(opened: Open, root: Path, kind: str) -> None:
    # An archive that forwards all that is new would else send our own results back to us, for ever.
    [content, *_] = ct_study("1.2.1")
    content.SOPClassUID = content.file_meta.MediaStorageSOPClassUID = kind
    assert send(opened(), [content]) == [0x0000]
    assert stored_files(root) == []


def test_an_object_without_a_study(opened: Open, root: Path) -> None:
    [content, *_] = ct_study("1.2.1")
    content.StudyInstanceUID = ""
    assert send(opened(), [content]) == [0xC000]
    assert stored_files(root) == []


# --- limits


def test_a_full_spool_says_so(opened: Open, root: Path) -> None:
    port = opened(SpoolLimits(studies=1, free_bytes=0))
    first, second = ct_study("1.2.1"), ct_study("1.2.2")
    assert send(port, [first[0], second[0], first[1]]) == [0x0000, 0xA700, 0x0000]
    assert len(stored_files(root)) == 2


def test_a_full_disk_says_so(opened: Open, root: Path) -> None:
    assert send(opened(SpoolLimits(free_bytes=1 << 62)), ct_study("1.2.1")[:1]) == [0xA700]
    assert stored_files(root) == []


def test_an_object_that_is_too_large_ends_the_association(opened: Open, root: Path) -> None:
    port = opened(object_bytes=100_000)
    small, large = ct_study("1.2.1")[:2]
    large.PixelData = bytes(300_000)
    assert send(port, [small, large]) == [0x0000, None]
    assert len(stored_files(root)) == 1
    assert echo(port) == 0x0000


def gone_after(connection: socket.socket) -> float:
    """Returns the seconds until the other side ends the connection, at most 10."""
    start = monotonic()
    connection.settimeout(10.0)
    try:
        while connection.recv(1000):
            pass
    except ConnectionError:
        pass
    return monotonic() - start


def test_a_caller_that_says_nothing_is_put_off(opened: Open) -> None:
    with socket.create_connection(("127.0.0.1", opened(request_seconds=0.3))) as connection:
        assert gone_after(connection) < 5


def test_a_caller_that_never_ends_its_request_is_put_off(opened: Open) -> None:
    port = opened(request_seconds=0.5)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"\x01\x00\xff\xff\xff\xff")  # a request for an association of 4 GiB
        ended = threading.Event()

        def trickle() -> None:
            while not ended.wait(0.05):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            assert gone_after(connection) < 5
        finally:
            ended.set()
            thread.join()
    assert echo(port) == 0x0000


def test_a_request_of_many_bytes_is_cut_off(opened: Open) -> None:
    with socket.create_connection(("127.0.0.1", opened(request_seconds=1.0))) as connection:
        connection.settimeout(10.0)
        connection.sendall(b"\x01\x00\xff\xff\xff\xff")
        with pytest.raises(ConnectionError):
            connection.sendall(bytes(100_000_000))


def test_a_stopped_receiver_is_gone(root: Path) -> None:
    with Spool(root, limits=NO_LIMITS) as spool:
        receiver = Receiver(DOOR, spool=spool, arrivals=Arrivals(10.0))
        study: list[Dataset] = ct_study("1.2.1")
        association = associate(receiver.port, study)
        assert association.send_c_store(study[0]).Status == 0x0000
        receiver.stop()
        receiver.stop()
        until(lambda: not association.is_established, "the abort")
        with pytest.raises(ConnectionError):
            socket.create_connection(("127.0.0.1", receiver.port))
        assert len(stored_files(root)) == 1

"""Sending to a real C-STORE server and to a small web server; what each answer means."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pynetdicom import _config
from tiny_archive import ct_study, fake_segment, free_port, pacs_at, taking

from pipeline.archive.peers import Address
from pipeline.archive.sender import DicomDestination, StowDestination, judged


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Returns two results of one study."""
    (tmp_path / "images").mkdir()
    slices = [*ct_study("1.2.1"), *ct_study("1.2.1")]
    for number, content in enumerate(slices):
        content.SeriesInstanceUID = f"1.2.1.{1 + number // 3}"
        content.save_as(tmp_path / "images" / f"{number}.dcm", enforce_file_format=True)
    (tmp_path / "output").mkdir()
    return list(fake_segment(tmp_path / "images", tmp_path / "output").seg_files)


def uid_of(file: Path) -> str:
    return str(pydicom.dcmread(file).SOPInstanceUID)


# --- C-STORE


def test_files_arrive_whole(files: list[Path]) -> None:
    with taking() as (port, received):
        deliveries = pacs_at(port).send(files)
    assert [(one.file, one.is_accepted, one.detail) for one in deliveries] == [
        (files[0], True, "status 0x0000"), (files[1], True, "status 0x0000")]
    assert received == [pydicom.dcmread(file) for file in files]


def test_each_status_speaks_of_its_file(files: list[Path]) -> None:
    with taking([0xA700, 0xB000]) as (port, received):
        deliveries = pacs_at(port).send(files)
    assert [(one.is_accepted, one.detail) for one in deliveries] == [(False, "status 0xA700"), (True, "status 0xB000")]
    assert len(received) == 1


def test_nobody_there(files: list[Path]) -> None:
    deliveries = pacs_at(free_port()).send(files)
    assert [(one.is_accepted, one.detail) for one in deliveries] == [(False, "no connection")] * 2


def test_a_host_that_nobody_knows(files: list[Path]) -> None:
    destination = DicomDestination(Address("PACS", "nowhere.invalid", 104), "SEGLINE")
    assert [(one.is_accepted, one.detail) for one in destination.send(files)] == [(False, "no such host")] * 2


def test_another_title_there(files: list[Path]) -> None:
    with taking(title="OTHER") as (port, received):
        assert {one.detail for one in pacs_at(port).send(files)} == {"association rejected"}
    assert received == []


def test_an_encoding_that_the_destination_does_not_take(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    # The receiver of another test in this process asks for all that is offered.
    monkeypatch.setattr(_config, "UNRESTRICTED_STORAGE_SERVICE", False)
    content = pydicom.dcmread(files[1])
    content.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.5"
    content.save_as(files[1], enforce_file_format=True, implicit_vr=False, little_endian=True)
    with taking() as (port, received):
        deliveries = pacs_at(port).send(files)
    assert [one.is_accepted for one in deliveries] == [True, False]
    assert len(received) == 1


def test_a_file_that_is_not_dicom(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    with taking() as (port, _):
        assert [one.detail for one in pacs_at(port).send([tmp_path / "x"])] == ["not a DICOM file (undecodable)"]


# --- STOW-RS


class Request:
    """What the web server got."""

    def __init__(self, path: str, headers: dict[str, str], body: bytes) -> None:
        self.path, self.headers, self.body = path, headers, body


@contextmanager
def web_server(answers: list[tuple[int, Any]]) -> Iterator[tuple[str, list[Request]]]:
    """Yields the address of a service that gives these answers, and the requests it gets."""
    requests: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append(Request(self.path, dict(self.headers), body))
            status, content = answers.pop(0)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content if isinstance(content, bytes) else json.dumps(content).encode())

        def log_message(self, *words: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/dicom-web", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def referenced(uid: str) -> dict[str, Any]:
    return {"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [uid]}}]}}


def failing(uid: str, reason: int) -> dict[str, Any]:
    item = {"00081155": {"vr": "UI", "Value": [uid]}, "00081197": {"vr": "US", "Value": [reason]}}
    return {"00081198": {"vr": "SQ", "Value": [item]}}


def test_each_file_is_posted_as_it_is(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGLINE_STOW_AUTHORIZATION", "Bearer token")
    with web_server([(200, referenced(uid_of(file))) for file in files]) as (url, requests):
        deliveries = StowDestination(url).send(files)
    assert [(one.file, one.is_accepted, one.detail) for one in deliveries] == [
        (files[0], True, "HTTP 200"), (files[1], True, "HTTP 200")]
    for file, request in zip(files, requests, strict=True):
        assert request.path == "/dicom-web/studies"
        assert request.headers["Authorization"] == "Bearer token"
        # Taken apart by the standard library's parser for messages.
        head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
        message = BytesParser(policy=HTTP).parsebytes(head + request.body)
        assert message.get_content_type() == "multipart/related"
        assert message.get_param("type") == "application/dicom"
        [part] = message.iter_parts()
        assert part.get_content_type() == "application/dicom"
        assert file.read_bytes() in request.body


def test_no_authorization_unless_it_is_set(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGLINE_STOW_AUTHORIZATION", raising=False)
    with web_server([(200, referenced(uid_of(files[0])))]) as (url, requests):
        StowDestination(url).send(files[:1])
    assert "Authorization" not in requests[0].headers


def test_a_service_that_fails_and_one_that_is_not_there(files: list[Path]) -> None:
    with web_server([(503, b""), (302, b"")]) as (url, requests):
        deliveries = StowDestination(url).send(files)
    assert [(one.is_accepted, one.detail) for one in deliveries] == [(False, "HTTP 503"), (False, "HTTP 302")]
    assert len(requests) == 2, "a redirection is not followed"
    [gone] = StowDestination(url).send(files[:1])
    assert (gone.is_accepted, gone.detail) == (False, "no answer (ConnectionRefusedError)")


@pytest.mark.parametrize(("status", "answer", "expected"), [
    (200, referenced("1.2"), (True, "HTTP 200")),
    (200, [referenced("1.2")], (True, "HTTP 200")),
    (202, referenced("1.2"), (True, "HTTP 202")),
    (200, {}, (True, "HTTP 200")),
    (202, {}, (False, "HTTP 202")),
    (200, referenced("9.9"), (False, "HTTP 200")),
    (200, failing("1.2", 0xA700), (False, "HTTP 200, failure 0xA700")),
    (202, failing("1.2", 0xC000) | referenced("9.9"), (False, "HTTP 202, failure 0xC000")),
    (202, failing("9.9", 0xC000) | referenced("1.2"), (True, "HTTP 202")),
    (409, failing("1.2", 0xA900), (False, "HTTP 409")),
    (200, {"00081199": {"Value": [{}]}}, (True, "HTTP 200")),
])
def test_what_an_answer_says(status: int, answer: Any, expected: tuple[bool, str]) -> None:
    assert judged(status, json.dumps(answer).encode(), "1.2") == expected


@pytest.mark.parametrize(("status", "accepted"), [(200, True), (202, False)])
def test_an_answer_that_is_not_json(status: int, accepted: bool) -> None:
    assert judged(status, b"<NativeDicomModel/>", "1.2") == (accepted, f"HTTP {status}")

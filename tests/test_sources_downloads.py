"""Downloads that fetch makes, from a server on loopback: whole, with the right digest, or nothing."""

import hashlib
import importlib.util
import io
import socket
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tiny_fetch import FILES, RAW, assert_nothing_left, call, enter_repository, files_below, names_in, refusal
from tiny_msd import write_msd

from pipeline.commands import fetch
from pipeline.records.errors import InputError
from pipeline.sources.downloads import Download, download


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter_repository(tmp_path, monkeypatch)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_msd(tmp_path / "Task99_Tiny", ["a", "b"])


@pytest.fixture
def archive(source: Path) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.add(source, arcname="Task99_Tiny")
    return stream.getvalue()


@pytest.fixture
def server(archive: bytes) -> Iterator[str]:
    """An HTTP server on loopback; the path asked for says how it behaves."""
    hold = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/missing.tar":
                self.send_error(404, "Not Found")
                return
            self.send_response(200)
            if self.path == "/chunked.tar":
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(b"%x\r\n%s" % (len(archive), archive[:100]))
                return
            if self.path != "/unannounced.tar":
                self.send_header("Content-Length", str(len(archive)))
            self.end_headers()
            self.wfile.write(archive if self.path in ("/good.tar", "/unannounced.tar") else archive[:1000])
            if self.path == "/slow.tar":
                self.wfile.flush()
                hold.wait(20)

        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    hold.set()
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def publish(monkeypatch: pytest.MonkeyPatch, url: str, archive: bytes) -> None:
    digest = hashlib.md5(archive, usedforsecurity=False).hexdigest()
    monkeypatch.setattr(fetch, "KNOWN", {"tiny": Download(url, digest)})


@pytest.mark.parametrize("name", ["good.tar", "unannounced.tar"])
def test_a_download(server: str, archive: bytes, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    publish(monkeypatch, f"{server}/{name}", archive)
    call("tiny")
    assert files_below(RAW / "tiny") == FILES
    assert names_in(RAW) == ["tiny"]


def test_a_download_with_another_digest(server: str, archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, f"{server}/good.tar", b"what was expected")
    error = refusal("tiny")
    assert error.reason == "wrong-digest"
    assert hashlib.md5(archive).hexdigest() in error.found
    assert hashlib.md5(b"what was expected").hexdigest() in error.wanted
    assert_nothing_left()


def test_a_download_that_is_not_there(server: str, archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, f"{server}/missing.tar", archive)
    error = refusal("tiny")
    assert (error.reason, error.found) == ("http-error", "HTTP 404 Not Found")
    assert "--from" in error.remedy
    assert_nothing_left()


@pytest.mark.parametrize("name", ["truncated.tar", "chunked.tar"])
def test_a_download_that_ends_early(server: str, archive: bytes, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    publish(monkeypatch, f"{server}/{name}", archive)
    assert refusal("tiny").reason == "incomplete-download"
    assert_nothing_left()


def test_a_download_that_stalls(server: str, archive: bytes, tmp_path: Path) -> None:
    known = Download(f"{server}/slow.tar", hashlib.md5(archive).hexdigest())
    with pytest.raises(InputError, match=r"no connection .*timed out") as caught:
        download(known, tmp_path / "slow.tar", patience_s=0.2)
    assert caught.value.reason == "no-connection"
    assert not (tmp_path / "slow.tar").exists()


def test_a_server_that_refuses(archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:  # bound, and nobody listens
        free.bind(("127.0.0.1", 0))
        publish(monkeypatch, f"http://127.0.0.1:{free.getsockname()[1]}/x.tar", archive)
        error = refusal("tiny")
    assert error.reason == "no-connection"
    assert "refused" in error.found
    assert_nothing_left()


def test_a_failing_download_leaves_the_old_data(server: str, archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    (RAW / "tiny").mkdir(parents=True)
    (RAW / "tiny" / "old").write_text("old")
    publish(monkeypatch, f"{server}/truncated.tar", archive)
    assert refusal("tiny", "--force").reason == "incomplete-download"
    assert files_below(RAW / "tiny") == ["old"]


def test_a_name_that_cannot_be_downloaded() -> None:
    error = refusal("liver")
    assert (error.reason, error.wanted) == ("unknown-dataset", "one of hippocampus")
    assert "--from" in error.remedy
    assert_nothing_left()


def test_the_published_archive_is_the_one_that_monai_records() -> None:
    monai = importlib.util.find_spec("monai")  # read, not imported: that takes seconds
    assert monai is not None
    assert monai.origin is not None
    source = (Path(monai.origin).parent / "apps" / "datasets.py").read_text()
    assert f'"Task04_Hippocampus": "{fetch.KNOWN["hippocampus"].url}"' in source
    assert f'"Task04_Hippocampus": "{fetch.KNOWN["hippocampus"].md5}"' in source

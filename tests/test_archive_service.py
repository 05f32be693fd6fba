"""The whole service: studies in, results out, through kills and stops."""

import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny_archive
from pydicom.dataset import Dataset
from tiny_archive import (
    PATIENT,
    ct_study,
    listening_port,
    names_below,
    pacs_at,
    send,
    serving,
    status_of,
    taking,
    until,
)

from pipeline.archive.outcomes import StudyOutcome
from pipeline.archive.spool import SpoolLimits

EMPTY = ["aside", "failed", "incoming", "ready", "sent", "status.json", "working"]


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def labels(received: list[Dataset]) -> list[tuple[str, str]]:
    return sorted((str(one.StudyInstanceUID), str(one.ContentLabel)) for one in received)


def test_two_studies_in_two_results_out_and_nothing_left(spool: Path) -> None:
    with taking() as (port, received), serving(spool, pacs_at(port)) as door:
        assert send(door, [*ct_study("1.2.1", slices=3), *ct_study("1.2.2", slices=2)]) == [0x0000] * 5
        until(lambda: len(received) == 2, "both results")
        until(lambda: status_of(spool)["sent"] == 2, "the count")
        status = status_of(spool)
    assert labels(received) == [("1.2.1", "SLICES 3"), ("1.2.2", "SLICES 2")]
    assert {one.PatientID for one in received} == {"ID4711"}
    assert status == {"state": "listening", "port": door, "receiving": 0, "queued": 0, "working": 0, "sent": 2,
                      "without_scan": 0, "failed": 0, "last_error": None}
    assert status_of(spool)["state"] == "stopped"
    assert names_below(spool) == EMPTY
    assert stat.S_IMODE((spool / "status.json").stat().st_mode) == 0o600


def test_a_study_that_comes_in_two_associations_is_one(spool: Path) -> None:
    study = ct_study("1.2.1", slices=4)
    with taking() as (port, received), serving(spool, pacs_at(port), quiet_seconds=2.0) as door:
        send(door, study[:2])
        send(door, study[2:])
        until(lambda: received, "the result")
    assert labels(received) == [("1.2.1", "SLICES 4")]


def test_images_after_the_result_was_sent_are_processed_anew(spool: Path) -> None:
    study = ct_study("1.2.1", slices=3)
    with taking() as (port, received), serving(spool, pacs_at(port), limits=SpoolLimits(free_bytes=0, kept=1)) as door:
        send(door, study[:2])
        until(lambda: status_of(spool)["sent"] == 1, "the first result")
        send(door, study[2:])
        until(lambda: status_of(spool)["sent"] == 2, "the second result")
    assert labels(received) == [("1.2.1", "SLICES 2"), ("1.2.1", "SLICES 3")]


def test_the_result_that_comes_back_starts_nothing(spool: Path) -> None:
    with taking() as (port, received), serving(spool, pacs_at(port)) as door:
        send(door, ct_study("1.2.1"))
        until(lambda: status_of(spool)["sent"] == 1, "the result")
        assert send(door, received) == [0x0000]
        send(door, ct_study("1.2.2"))
        until(lambda: status_of(spool)["sent"] == 2, "another study's result")
    assert [uid for uid, _ in labels(received)] == ["1.2.1", "1.2.2"]


def test_a_failure_stands_in_the_status_without_the_patient(spool: Path) -> None:
    def fail(images: Path, output: Path) -> StudyOutcome:
        raise ValueError(PATIENT)

    with taking() as (port, _), serving(spool, pacs_at(port), segment=fail) as door:
        send(door, ct_study("1.2.1"))
        until(lambda: status_of(spool)["failed"] == 1, "the failure")
        until(lambda: status_of(spool)["last_error"], "the reason")
        status = status_of(spool)
    [kept] = (spool / "failed").iterdir()
    assert status["last_error"] == {"study": kept.name, "reason": "unexpected-error"}
    assert PATIENT not in (spool / "status.json").read_text() + (kept / "reason.json").read_text()


# --- processes that are stopped and killed


@contextmanager
def process(spool: Path, pacs_port: int, *, quiet_seconds: float = 0.2,
            hold: Path = Path("/nonexistent")) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Yields a process that serves, and its port; a process that still runs at the end is killed."""
    (spool / "status.json").unlink(missing_ok=True)
    words = [tiny_archive.__file__, spool, pacs_port, quiet_seconds, hold]
    started = subprocess.Popen([sys.executable, *map(str, words)], stderr=subprocess.PIPE, text=True)
    try:
        yield started, int(until(lambda: listening_port(spool), "the process"))
    finally:
        if started.poll() is None:
            started.kill()
        started.communicate()


def test_a_kill_after_the_answer_loses_nothing(spool: Path) -> None:
    with taking() as (pacs, received):
        with process(spool, pacs, quiet_seconds=60) as (started, door):
            assert send(door, ct_study("1.2.1")) == [0x0000] * 3
            started.kill()
            assert started.wait(30) == -signal.SIGKILL
        assert len(list(spool.glob("incoming/*/images/*.dcm"))) == 3
        with serving(spool, pacs_at(pacs)):
            until(lambda: received, "the result")
    assert labels(received) == [("1.2.1", "SLICES 3")]
    assert names_below(spool) == EMPTY


def test_a_kill_while_segmenting_loses_nothing(spool: Path, tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    with taking() as (pacs, received):
        with process(spool, pacs, hold=tmp_path / "hold") as (started, door):
            send(door, ct_study("1.2.1"))
            until(lambda: list(spool.glob("working/*/output")), "the work")
            started.kill()
            started.wait(30)
        assert received == []
        with serving(spool, pacs_at(pacs)):
            until(lambda: received, "the result")
    assert labels(received) == [("1.2.1", "SLICES 3")]


def test_sigterm_finishes_the_study_at_hand_and_takes_nothing_more(spool: Path, tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    with taking() as (pacs, received), process(spool, pacs, hold=tmp_path / "hold") as (started, door):
        send(door, ct_study("1.2.1"))
        until(lambda: list(spool.glob("working/*/output")), "the work")
        started.send_signal(signal.SIGTERM)
        until(lambda: status_of(spool)["state"] == "stopped", "the door to close")
        assert started.poll() is None
        with pytest.raises(AssertionError):
            send(door, ct_study("1.2.2"))
        (tmp_path / "hold").unlink()
        _, log = started.communicate(timeout=30)
        assert started.returncode == 0, log
    assert labels(received) == [("1.2.1", "SLICES 3")]
    assert PATIENT not in log
    assert "1 sent to PACS by C-STORE" in log


def test_a_second_signal_puts_the_study_back(spool: Path, tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    with taking() as (pacs, received), process(spool, pacs, hold=tmp_path / "hold") as (started, door):
        send(door, ct_study("1.2.1"))
        until(lambda: list(spool.glob("working/*/output")), "the work")
        started.send_signal(signal.SIGINT)
        until(lambda: status_of(spool)["state"] == "stopped", "the door to close")
        started.send_signal(signal.SIGINT)
        _, log = started.communicate(timeout=30)
        assert started.returncode == 0, log
    assert received == []
    assert len(list((spool / "ready").iterdir())) == 1

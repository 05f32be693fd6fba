"""The worker with destinations and segmenters that fail on purpose: what is retried, kept, and never done twice."""

import errno
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_archive import names_below

from pipeline.archive import worker as worker_module
from pipeline.archive.outcomes import SegmentStudy, StudyOutcome
from pipeline.archive.sender import Delivery
from pipeline.archive.spool import Spool, SpoolLimits
from pipeline.archive.stopping import Stop
from pipeline.archive.worker import Retries, Worker
from pipeline.records.errors import InputError

QUICK = Retries(attempts=3, first_wait_seconds=0.0)


class FakeDestination:
    """Takes files, but for those of the names in `refused`, each as often as that says."""

    name = "somewhere"

    def __init__(self, **refused: int) -> None:
        self.refused = refused
        self.taken: list[str] = []
        self.calls: list[list[str]] = []

    def send(self, files: Sequence[Path]) -> tuple[Delivery, ...]:
        self.calls.append([file.parent.name for file in files])
        return tuple(self.one(file) for file in files)

    def one(self, file: Path) -> Delivery:
        name = file.parent.name
        if self.refused.get(name, 0) > 0:
            self.refused[name] -= 1
            return Delivery(file, False, "status 0xA700")
        self.taken.append(f"{name}:{file.read_text()}")
        return Delivery(file, True, "status 0x0000")


class FakeSegmenter:
    """Makes a file for each series named, whose text is the count of calls so far; may raise instead."""

    def __init__(self, *series: str, failures: tuple[tuple[str, str], ...] = (),
                 error: BaseException | None = None) -> None:
        self.series, self.failures, self.error = series, failures, error
        self.calls = 0

    def __call__(self, images: Path, output: Path) -> StudyOutcome:
        assert [path.name for path in images.iterdir()] == ["a.dcm"]
        assert list(output.iterdir()) == [], "an empty folder, whatever came before"
        self.calls += 1
        if self.error is not None:
            raise self.error
        files = []
        for name in self.series:
            (output / name).mkdir()
            files.append(output / name / "segmentation.dcm")
            files[-1].write_text(str(self.calls))
        return StudyOutcome(tuple(files), self.failures)


Reopen = Callable[..., Spool]


@pytest.fixture
def reopen(tmp_path: Path) -> Iterator[Reopen]:
    """Returns a function that closes the spool, as the end of a process does, and opens it again."""
    opened: list[Spool] = []

    def reopen_it(**options: Any) -> Spool:
        if opened:
            opened.pop().__exit__(None, None, None)
        opened.append(Spool(tmp_path / "spool", limits=SpoolLimits(free_bytes=0, kept=5), **options))
        return opened[0]

    yield reopen_it
    opened.pop().__exit__(None, None, None)


@pytest.fixture
def spool(reopen: Reopen) -> Spool:
    """Returns a spool in which study s waits."""
    spool = reopen()
    spool.store("s", "a.dcm", [b"x"])
    spool.close("s")
    return spool


def worker_of(spool: Spool, segment: SegmentStudy, destination: FakeDestination, *, stop: Stop | None = None) -> Worker:
    return Worker(spool, segment, destination, stop=stop or Stop(), retries=QUICK)


def reason_json(spool: Spool) -> dict[str, Any]:
    return dict(json.loads((spool.folder("s", "failed") / "reason.json").read_text()))


def test_results_are_sent_and_the_study_is_done(spool: Spool) -> None:
    destination = FakeDestination()
    worker = worker_of(spool, FakeSegmenter("liver", "lung"), destination)
    assert worker.process_next() is True
    assert destination.calls == [["liver", "lung"]]
    assert spool.studies("sent") == ("s",)
    assert (worker.totals.sent, worker.totals.last_error) == (1, None)
    assert worker.process_next() is False


def test_what_was_refused_is_sent_again_and_nothing_else(spool: Spool) -> None:
    destination = FakeDestination(lung=2)
    worker_of(spool, FakeSegmenter("liver", "lung"), destination).process_next()
    assert destination.calls == [["liver", "lung"], ["lung"], ["lung"]]
    assert spool.studies("sent") == ("s",)


def test_waits_between_attempts_double(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    stop = Stop()
    monkeypatch.setattr(stop, "wait", waits.append)
    Worker(spool, FakeSegmenter("liver"), FakeDestination(liver=99), stop=stop, retries=Retries(5, 2.0)).process_next()
    assert waits == [2.0, 4.0, 8.0, 16.0]


def test_a_destination_that_never_takes_it_leaves_a_failed_study(spool: Spool, reopen: Reopen) -> None:
    segment = FakeSegmenter("liver", "lung")
    worker = worker_of(spool, segment, FakeDestination(lung=99))
    worker.process_next()
    assert reason_json(spool) == {"study": "s", "sent": 1, "unsent": 1,
                                  "failures": [{"reason": "not-sent", "message": "status 0xA700"}]}
    assert worker.totals.last_error == ("s", "not-sent")
    destination = FakeDestination()
    worker_of(reopen(retry_failed=True), segment, destination).process_next()
    assert destination.taken == ["lung:1"], "what the first process made, and only what was not yet sent"
    assert segment.calls == 1


def test_a_series_that_fails_keeps_the_study_though_the_others_are_sent(spool: Spool, reopen: Reopen) -> None:
    destination = FakeDestination()
    worker_of(spool, FakeSegmenter("liver", failures=(("gantry-tilt", "14 degrees"),)), destination).process_next()
    assert reason_json(spool) == {"study": "s", "sent": 1, "unsent": 0,
                                  "failures": [{"reason": "gantry-tilt", "message": "14 degrees"}]}
    worker_of(reopen(retry_failed=True), FakeSegmenter("liver", "lung"), destination).process_next()
    assert destination.taken == ["liver:1", "lung:1"], "segmented anew, and no series sent twice"


def test_a_study_without_a_series_for_the_bundle(spool: Spool) -> None:
    destination = FakeDestination()
    worker = worker_of(spool, FakeSegmenter(), destination)
    worker.process_next()
    assert (destination.calls, spool.studies("sent"), worker.totals.without_scan) == ([], ("s",), 1)


@pytest.mark.parametrize(("error", "failure"), [
    (InputError("/Smith", found="a tilt", wanted="none", remedy="resample", reason="tilt"),
     {"reason": "tilt", "message": "a tilt; expected none; resample"}),
    (InputError("a", found="no file /home/Smith/a.dcm", wanted="one", remedy="copy it", reason="missing-file"),
     {"reason": "missing-file", "message": "no file (path); expected one; copy it"}),
    (ValueError("PatientName Smith^John"),
     {"reason": "unexpected-error", "message": f"ValueError in {Path(__file__).name}, line LINE"}),
])
def test_an_error_is_recorded_without_the_patient(spool: Spool, error: Exception, failure: dict[str, str]) -> None:
    worker_of(spool, FakeSegmenter(error=error), FakeDestination()).process_next()
    [found] = reason_json(spool)["failures"]
    assert found | {"message": re.sub(r"line \d+", "line LINE", found["message"])} == failure
    texts = [path.read_text() for path in spool.folder("s", "failed").glob("*.json")]
    assert len(texts) == 2
    assert not any("Smith" in text for text in texts)


def test_a_full_disk_puts_the_study_back(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "PAUSE_SECONDS", 0.0)
    worker = worker_of(spool, FakeSegmenter(error=OSError(errno.ENOSPC, "full")), FakeDestination())
    for _ in range(5):
        assert worker.process_next() is True
        assert spool.studies("ready") == ("s",)
    assert worker.totals.last_error == ("s", "disk-full")
    worker_of(spool, FakeSegmenter("liver"), FakeDestination()).process_next()
    assert spool.studies("sent") == ("s",)


def test_a_full_disk_keeps_nothing_of_what_was_begun(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "PAUSE_SECONDS", 0.0)

    def segment(images: Path, output: Path) -> StudyOutcome:
        (output / "half").write_bytes(bytes(1000))
        raise OSError(errno.EDQUOT, "full")

    worker_of(spool, segment, FakeDestination()).process_next()
    assert names_below(spool.folder("s", "ready")) == ["images", "images/a.dcm", "progress.json"]


def test_trouble_with_the_disk_fails_the_study_and_holds_up_no_other(spool: Spool) -> None:
    class Broken(FakeDestination):
        def one(self, file: Path) -> Delivery:
            raise OSError(errno.EIO, "Smith", str(file))

    assert worker_of(spool, FakeSegmenter("liver"), Broken()).process_next() is True
    record = reason_json(spool)
    assert (record["sent"], record["unsent"], record["failures"][0]["reason"]) == (0, 1, "unexpected-error")
    assert "Smith" not in str(record)


# --- the end of the process


def test_results_that_were_made_are_sent_after_a_restart(spool: Spool, reopen: Reopen) -> None:
    segment, stop = FakeSegmenter("liver"), Stop()
    stop.set()
    worker_of(spool, segment, FakeDestination(liver=1), stop=stop).process_next()
    assert spool.studies("ready") == ("s",)
    destination = FakeDestination()
    worker_of(reopen(), segment, destination).process_next()
    assert (destination.taken, segment.calls) == (["liver:1"], 1)


def test_results_that_have_gone_are_made_again(spool: Spool, reopen: Reopen) -> None:
    segment, stop = FakeSegmenter("liver"), Stop()
    stop.set()
    worker_of(spool, segment, FakeDestination(liver=1), stop=stop).process_next()
    (spool.folder("s", "ready") / "output/liver/segmentation.dcm").unlink()
    destination = FakeDestination()
    worker_of(reopen(), segment, destination).process_next()
    assert destination.taken == ["liver:2"]


def test_an_interrupt_puts_the_study_back_and_goes_on(spool: Spool) -> None:
    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            worker_of(spool, FakeSegmenter(error=KeyboardInterrupt()), FakeDestination()).process_next()
        assert spool.studies("ready") == ("s",)
    worker_of(spool, FakeSegmenter("liver"), FakeDestination()).process_next()
    assert spool.studies("sent") == ("s",), "an interrupt is not counted as a crash"


def test_a_study_that_ends_the_process_three_times_is_put_aside(spool: Spool, reopen: Reopen,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        # What SIGKILL leaves: the study in `working`, nothing tidied up.
        with monkeypatch.context() as patched:
            patched.setattr(Worker, "_put_back", lambda *_, **__: None)
            with pytest.raises(KeyboardInterrupt):
                worker_of(spool, FakeSegmenter(error=KeyboardInterrupt()), FakeDestination()).process_next()
        assert spool.studies("working") == ("s",)
        spool = reopen()
    segment = FakeSegmenter("liver")
    worker_of(spool, segment, FakeDestination()).process_next()
    assert (segment.calls, reason_json(spool)["failures"][0]["reason"]) == (0, "crashes")
    worker_of(reopen(retry_failed=True), segment, FakeDestination()).process_next()
    assert segment.calls == 1, "asked for again, it is tried again"


def test_late_images_during_the_work_are_segmented_with_the_others(spool: Spool) -> None:
    counts: list[int] = []

    def segment(images: Path, output: Path) -> StudyOutcome:
        counts.append(len(list(images.iterdir())))
        if len(counts) == 1:
            spool.store("s", "b.dcm", [b"late"])
            spool.close("s")
        (output / "x").mkdir()
        (output / "x" / "segmentation.dcm").write_text(str(len(counts)))
        return StudyOutcome((output / "x" / "segmentation.dcm",))

    destination = FakeDestination()
    worker = worker_of(spool, segment, destination)
    while worker.process_next():
        pass
    assert (counts, destination.taken) == ([1, 2], ["x:1", "x:2"])
    assert spool.studies("sent") == ("s",)

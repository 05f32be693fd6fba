"""Segments the waiting studies one after the other and sends what came of them."""

import errno
import logging
import shutil
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from pipeline.archive.outcomes import (
    Failure,
    Progress,
    SegmentStudy,
    StudyOutcome,
    read_progress,
    without_paths,
    write_progress,
)
from pipeline.archive.private_files import make_private_folder
from pipeline.archive.sender import Destination
from pipeline.archive.spool import Spool
from pipeline.archive.stopping import Stop
from pipeline.records.errors import input_error_behind

logger = logging.getLogger(__name__)
OUTPUT = "output"
FULL = (errno.ENOSPC, errno.EDQUOT)
# A study that takes the process down with it is set aside after this many starts.
MOST_STARTS = 3
PAUSE_SECONDS = 5.0


@dataclass(frozen=True)
class Retries:
    """How often sending is tried, and the wait after the first time, which doubles each time."""

    attempts: int = 6
    first_wait_seconds: float = 2.0


@dataclass(frozen=True)
class Totals:
    """Counts since the start, and the last error's study and reason id."""

    sent: int = 0
    without_scan: int = 0
    last_error: tuple[str, str] | None = None


class Worker:
    """Does the work of one study at a time, in the thread that calls it.

    Args:
        spool: holds the studies.
        segment_study: makes the objects to send.
        destination: gets them.
        stop: once set, what is at hand is finished or put back, and no wait goes on.
        retries: of sending.
    """

    def __init__(self, spool: Spool, segment_study: SegmentStudy, destination: Destination, *, stop: Stop,
                 retries: Retries | None = None) -> None:
        self._spool, self._segment_study, self._destination = spool, segment_study, destination
        self._stop = stop
        self._retries = retries or Retries()
        self.totals = Totals()

    def process_next(self) -> bool:
        """Takes the study that waits longest through to its end; returns whether there was one.

        Raises:
            KeyboardInterrupt: passed on, after the study was put back.
        """
        study = self._spool.take()
        if study is None:
            return False
        folder = self._spool.folder(study, "working")
        starts = read_progress(folder).starts
        try:
            self._process(study, folder)
        except KeyboardInterrupt:
            self._put_back(study, "interrupted", starts=starts)
            raise
        except OSError as error:
            if error.errno in FULL:
                # A full disk passes; what was received must not be given up for it.
                self.totals = replace(self.totals, last_error=(study, "disk-full"))
                self._put_back(study, "disk full", starts=starts)
                self._stop.wait(PAUSE_SECONDS)
            else:
                self._end(study, read_progress(folder), [reason_without_patient(error)])
        return True

    def _process(self, study: str, folder: Path) -> None:
        start = perf_counter()
        progress = read_progress(folder)
        if not progress.is_segmented or progress.failures:
            progress = self._segment(study, folder, progress)
        progress, undelivered = self._deliver(study, folder, progress)
        if undelivered and self._stop.is_set():
            self._put_back(study, "stopping", starts=0)
            return
        if self._end(study, progress, [*progress.failures, *undelivered]):
            self._done(study, len(progress.files), perf_counter() - start)

    def _end(self, study: str, progress: Progress, failures: Sequence[Failure]) -> bool:
        """Moves the study out of work; returns whether that is its good end."""
        record = {"study": study, "sent": len(progress.sent), "unsent": len(progress.unsent()),
                  "failures": [{"reason": reason, "message": message} for reason, message in failures]}
        if not self._spool.finish(study, record if failures else None):
            logger.info("study %s: more has come meanwhile; it waits anew", study)
            return False
        if failures:
            self.totals = replace(self.totals, last_error=(study, failures[0][0]))
            logger.error("study %s: failed: %s", study, failures[0][0])
        return not failures

    def _segment(self, study: str, folder: Path, progress: Progress) -> Progress:
        begun = progress.begun()
        write_progress(folder, begun)
        if begun.starts > MOST_STARTS:
            crashes = ("crashes", f"the process ended {MOST_STARTS} times while segmenting this study")
            return self._noted(folder, begun.segmented(StudyOutcome((), (crashes,)), folder))
        output = folder / OUTPUT
        if output.exists():
            shutil.rmtree(output)
        make_private_folder(output)
        count = sum(1 for _ in self._spool.images(study, "working").iterdir())
        start = perf_counter()
        logger.info("study %s: segmenting %d objects", study, count)
        try:
            outcome = self._segment_study(self._spool.images(study, "working"), output)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in FULL:
                # What is begun would take the space that the study waits for.
                shutil.rmtree(output, ignore_errors=True)
                raise
            logger.debug("segmenting failed", exc_info=True)
            outcome = StudyOutcome((), (reason_without_patient(error),))
        logger.info("study %s: %d segmentations, %d failures in %.1f s", study, len(outcome.seg_files),
                    len(outcome.failures), perf_counter() - start)
        return self._noted(folder, begun.segmented(outcome, folder))

    def _deliver(self, study: str, folder: Path, progress: Progress) -> tuple[Progress, tuple[Failure, ...]]:
        """Sends what is unsent, again and again within limits; returns what is known then, and what stayed unsent."""
        wait_seconds = self._retries.first_wait_seconds
        details: dict[str, str] = {}
        for attempt in range(1, self._retries.attempts + 1):
            if not progress.unsent():
                break
            deliveries = self._destination.send([folder / file for file in progress.unsent()])
            details = {one.file.relative_to(folder).as_posix(): one.detail for one in deliveries}
            taken = [one.file.relative_to(folder).as_posix() for one in deliveries if one.is_accepted]
            progress = self._noted(folder, replace(progress, sent=(*progress.sent, *taken)))
            if not progress.unsent():
                break
            logger.warning("study %s: attempt %d to send to %s: %s", study, attempt, self._destination.name,
                           "; ".join(sorted({details.get(file, "unknown") for file in progress.unsent()})))
            if attempt < self._retries.attempts:
                self._stop.wait(wait_seconds)
                wait_seconds *= 2
            if self._stop.is_set():
                break
        return progress, tuple(("not-sent", details.get(file, "not tried")) for file in progress.unsent())

    def _noted(self, folder: Path, progress: Progress) -> Progress:
        write_progress(folder, progress)
        return progress

    def _put_back(self, study: str, why: str, *, starts: int) -> None:
        """Lets the study wait again; what stopped it is not its fault and does not count as a start."""
        folder = self._spool.folder(study, "working")
        with suppress(OSError):
            write_progress(folder, replace(read_progress(folder), starts=starts))
        if folder.exists():
            self._spool.requeue(study)
        logger.info("study %s: put back (%s)", study, why)

    def _done(self, study: str, count: int, seconds: float) -> None:
        if count:
            self.totals = replace(self.totals, sent=self.totals.sent + 1)
            logger.info("study %s: %d sent to %s; %.1f s in all", study, count, self._destination.name, seconds)
        else:
            self.totals = replace(self.totals, without_scan=self.totals.without_scan + 1)
            logger.info("study %s: no series for this bundle; nothing sent", study)


def reason_without_patient(error: BaseException) -> Failure:
    """Returns reason id and message of any exception; the message of one that is not ours may quote the header."""
    cause = input_error_behind(error)
    if cause is not None:
        return cause.reason, without_paths(f"{cause.found}; expected {cause.wanted}; {cause.remedy}")
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return "unexpected-error", f"{type(error).__name__}{place}"

"""Receiver, spool, worker and destination put together: runs until it is told to stop."""

import logging
import os
import threading
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.archive.arrivals import Arrivals
from pipeline.archive.outcomes import SegmentStudy
from pipeline.archive.private_files import write_private_json
from pipeline.archive.receiver import Door, Receiver
from pipeline.archive.sender import Destination
from pipeline.archive.spool import Spool, SpoolLimits
from pipeline.archive.stopping import Stop
from pipeline.archive.worker import Retries, Worker

logger = logging.getLogger(__name__)
STATUS = "status.json"
TICK_SECONDS = 0.2


@dataclass(frozen=True)
class ServiceSettings:
    """How to serve.

    Attributes:
        spool: folder of received studies.
        door: where and whom to listen to.
        limits: of the spool.
        quiet_seconds: without anything new until a study counts as complete. Archives send a study series by series,
            with pauses of a few seconds between associations; each second here delays every result by a second.
        retries: of sending.
        retry_failed: whether studies that failed earlier are tried again.
    """

    spool: Path
    door: Door = field(default_factory=Door)
    limits: SpoolLimits = field(default_factory=SpoolLimits)
    quiet_seconds: float = 10.0
    retries: Retries = field(default_factory=Retries)
    retry_failed: bool = False


def serve(settings: ServiceSettings, segment_study: SegmentStudy, destination: Destination, *,
          stop: Stop) -> None:
    """Receives, segments and sends until `stop` is set; what is at hand then is finished or put back.

    Segmenting happens in the calling thread: torch keeps its modes, autocast for one, thread by thread.

    Raises:
        InputError: the spool cannot be used, or the address not listened at.
    """
    with Spool(settings.spool, limits=settings.limits, retry_failed=settings.retry_failed) as spool:
        (settings.spool / STATUS).unlink(missing_ok=True)  # speaks of an earlier process
        arrivals = Arrivals(settings.quiet_seconds)
        worker = Worker(spool, segment_study, destination, stop=stop, retries=settings.retries)
        receiver = Receiver(settings.door, spool=spool, arrivals=arrivals)
        keeper = Keeper(spool, arrivals=arrivals, receiver=receiver, worker=worker, stop=stop)
        keeper.start()
        try:
            while not stop.is_set():
                if not worker.process_next():
                    stop.wait(TICK_SECONDS)
        except KeyboardInterrupt:
            logger.info("stopped at once")
        finally:
            stop.set()
            keeper.join()


class Keeper(threading.Thread):
    """Closes studies that are complete, keeps status.json true, and shuts the door as soon as `stop` is set.

    Runs beside the worker, whose one study may take minutes.
    """

    def __init__(self, spool: Spool, *, arrivals: Arrivals, receiver: Receiver, worker: Worker,
                 stop: Stop) -> None:
        super().__init__(name="keeper", daemon=True)
        self._spool, self._arrivals, self._receiver, self._worker = spool, arrivals, receiver, worker
        self._stopping = stop
        self._written: dict[str, Any] = {}

    def run(self) -> None:
        """Looks after things until `stop` is set."""
        while not self._stopping.wait(TICK_SECONDS):
            self._tick("listening")
        self._receiver.stop()
        self._tick("stopped")
        logger.info("stopped listening")

    def _tick(self, state: str) -> None:
        try:
            for study in self._spool.studies("incoming") if state == "listening" else ():
                if self._arrivals.is_complete(study):
                    self._spool.close(study)
                    self._arrivals.forget(study)
                    logger.info("study %s: complete", study)
            self._write_status(state)
        except OSError as error:
            # A full disk, for one: the next tick may go well.
            logger.error("spool: %s", type(error).__name__)

    def _write_status(self, state: str) -> None:
        totals = self._worker.totals
        error = totals.last_error
        status = {
            "state": state,
            "port": self._receiver.port,
            "receiving": len(self._spool.studies("incoming")),
            "queued": len(self._spool.studies("ready")),
            "working": len(self._spool.studies("working")),
            "sent": totals.sent,
            "without_scan": totals.without_scan,
            "failed": len(self._spool.studies("failed")),
            "last_error": {"study": error[0], "reason": error[1]} if error else None,
        }
        if status != self._written:
            write_private_json(self._spool.root / STATUS, status)
            self._written = status


def prepare_process() -> None:
    """Keeps to itself what this process writes, and out of its log what libraries say: they quote headers."""
    os.umask(0o077)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    for name in ("pynetdicom", "pydicom", "highdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    warnings.simplefilter("ignore")

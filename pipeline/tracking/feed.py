"""What a training tells its run, sent by a thread: a store that is away costs no time, and gets it later."""

import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.tracking.store import BATCH, line_of, now_ms, open_client

if TYPE_CHECKING:
    from mlflow import MlflowClient

RETRY_S = 15.0  # between two attempts to reach a store that did not answer
GRACE_S = 10.0  # for the last attempt, when a training is over
MOST_POINTS = 100_000  # that wait for a store; the oldest are left to the track stage
MOST_PICTURES = 60
REFUSALS = (400, 404)  # what a store says to what it will never take; all else may pass


@dataclass(frozen=True)
class Picture:
    """One that waits to be sent: an RGB array under the key by which MLflow shows it, of a step."""

    key: str
    pixels: NDArray[np.uint8]
    step: int
    timestamp_ms: int


class Feed:
    """Keeps what a run is to get until the store has taken it, in the order of its coming: points before pictures.

    Adding waits for nothing. What was added before, by curve or key and step, is not added again: a training that goes
    on after it ran out of memory tells its curves from the start.

    Nothing is sent before the network is trained: MLflow imports modules where it needs them, and their number must not
    change while MONAI looks through them, which it does when it reads the training's config.

    Args:
        open_run: returns the run's id, or None if it wants nothing; it is called until it does not raise.
    """

    def __init__(self, open_run: Callable[[], str | None]) -> None:
        self.open_run = open_run
        self.client: MlflowClient | None = None
        self.run_id: str | None = None
        self.is_unwanted = False
        self.points: deque[Any] = deque(maxlen=MOST_POINTS)
        self.pictures: deque[Picture] = deque(maxlen=MOST_PICTURES)
        self.sending: list[Any] = []  # the batch that is on its way, or has failed to get through
        self.known: set[tuple[str, int]] = set()
        self.is_training = False
        self.status: str | None = None  # what the run ends as
        self.troubles: set[str] = set()
        self.news, self.is_closing = threading.Condition(), threading.Event()
        self.thread = threading.Thread(target=self._work, name="SeglineFeed", daemon=True)
        self.thread.start()

    def add_points(self, values: dict[str, float], step: int, *, is_training: bool = True) -> None:
        """Adds a point to each curve; `is_training` says that the network is being trained."""
        from mlflow.entities import Metric

        now = now_ms()
        points = {(name, step): Metric(name, value, now, step) for name, value in values.items()}
        self._add(self.points, points, is_training=is_training)

    def add_picture(self, key: str, pixels: NDArray[np.uint8], step: int) -> None:
        """Adds a picture ``(height, width, 3)``."""
        self._add(self.pictures, {(f"picture {key}", step): Picture(key, pixels.copy(), step, now_ms())},
                  is_training=True)

    def close(self, status: str) -> None:
        """Sends what is left, and that the run has ended as `status`: one attempt, given up after `GRACE_S`."""
        self.status = status
        self.is_closing.set()
        with self.news:
            self.news.notify()
        self.thread.join(GRACE_S)
        left = len(self.sending) + len(self.points), len(self.pictures)
        if any(left) and not self.is_unwanted:
            print(f"MLflow: {left[0]} points and {left[1]} pictures did not reach the store; the track stage writes "
                  "what its curves lack", file=sys.stderr)

    def _add(self, waiting: deque[Any], items: dict[tuple[str, int], Any], *, is_training: bool) -> None:
        new = {place: item for place, item in items.items() if place not in self.known}
        self.known |= new.keys()
        with self.news:
            waiting.extend(new.values())
            self.is_training |= is_training
            self.news.notify()

    def _work(self) -> None:
        while True:
            with self.news:
                self.news.wait_for(lambda: self.is_closing.is_set() or
                                   (self.is_training and (self.points or self.pictures)))
            is_last = self.is_closing.is_set()
            has_sent = self._send_all(is_last)
            if is_last:
                return
            if not has_sent:
                self.is_closing.wait(RETRY_S)

    def _send_all(self, is_last: bool) -> bool:
        """Returns whether all was sent that waited; what could not be is kept."""
        try:
            client = self.client = self.client or open_client()
            if self.run_id is None and not self.is_unwanted:
                self.run_id = self.open_run()
                self.is_unwanted = self.run_id is None
            if self.is_unwanted:
                self.points.clear()
                self.pictures.clear()
                return True
            self._send_points(client)
            self._send_pictures(client)
            if is_last:
                client.set_terminated(self.run_id, self.status)
        except Exception as error:  # whatever the store's trouble is, it must not cost a training
            self._tell("waits for the store", error)
            return False
        return True

    def _send_points(self, client: "MlflowClient") -> None:
        while self.sending or self.points:
            self.sending = self.sending or [self.points.popleft() for _ in range(min(BATCH, len(self.points)))]
            # A batch that arrived although its answer was lost is sent again as it was: MLflow keeps it once.
            self._attempt(lambda: client.log_batch(self.run_id, metrics=self.sending))
            self.sending = []

    def _send_pictures(self, client: "MlflowClient") -> None:
        while self.pictures:
            one = self.pictures[0]
            self._attempt(lambda one=one: client.log_image(  # type: ignore[misc]
                self.run_id, one.pixels, key=one.key, step=one.step, timestamp=one.timestamp_ms, synchronous=True))
            if self.pictures and self.pictures[0] is one:
                self.pictures.popleft()

    def _attempt(self, call: Callable[[], object]) -> None:
        """Calls it; what the store refuses for good is let go, everything else that is raised goes on."""
        from mlflow.exceptions import MlflowException

        try:
            call()
        except MlflowException as error:
            if error.get_http_status_code() not in REFUSALS:
                raise
            self._tell("is refused in part", error)

    def _tell(self, what: str, error: object) -> None:
        """Says a trouble on the terminal, each kind once."""
        if what not in self.troubles:
            print(f"MLflow: what is told live {what} ({line_of(error)}); training goes on", file=sys.stderr)
        self.troubles.add(what)

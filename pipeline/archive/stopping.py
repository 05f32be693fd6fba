"""The wish to stop, as signals bring it."""

import signal
import time
from types import FrameType

POLL_SECONDS = 0.05


class Stop:
    """A flag that a signal handler may set at any moment, which `threading.Event` with its lock does not allow."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        """Asks everything to stop."""
        self._is_set = True

    def is_set(self) -> bool:
        """Returns whether everything should stop."""
        return self._is_set

    def wait(self, seconds: float) -> bool:
        """Sleeps for so long, or less if set meanwhile; returns whether it is set."""
        deadline = time.monotonic() + seconds
        while not self._is_set and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(POLL_SECONDS, left))
        return self._is_set


def stop_on_signals() -> Stop:
    """Returns what the first SIGTERM or SIGINT sets; the second one raises `KeyboardInterrupt`."""
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return stop

"""When a study is complete: its associations ended, and nothing new came for a while."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol


class Association(Protocol):
    """What is asked of an association: whether it still goes on."""

    def is_alive(self) -> bool:
        """Returns False once it was released, aborted or lost."""


@dataclass
class _Arrival:
    last: float
    associations: set[Association] = field(default_factory=set)


class Arrivals:
    """Who sent what last, in this process; a study it knows nothing of counts as last seen at the start.

    Args:
        quiet_seconds: without anything new, after the associations ended.
        patience_seconds: without anything new, though an association goes on: some archives keep one open for days.
        clock: seconds that only grow.
    """

    def __init__(self, quiet_seconds: float, *, patience_seconds: float = 60.0,
                 clock: Callable[[], float] = monotonic) -> None:
        self._quiet_seconds = quiet_seconds
        self._patience_seconds = max(patience_seconds, quiet_seconds)
        self._clock = clock
        self._start = clock()
        self._lock = threading.Lock()
        self._arrivals: dict[str, _Arrival] = {}

    def note(self, study: str, association: Association) -> None:
        """Notes that something of the study came through the association just now."""
        with self._lock:
            arrival = self._arrivals.setdefault(study, _Arrival(self._start))
            arrival.last = self._clock()
            arrival.associations.add(association)

    def is_complete(self, study: str) -> bool:
        """Returns whether nothing more of the study is to be expected."""
        with self._lock:
            arrival = self._arrivals.get(study, _Arrival(self._start))
            is_open = any(association.is_alive() for association in arrival.associations)
            seconds = self._clock() - arrival.last
            return seconds >= (self._patience_seconds if is_open else self._quiet_seconds)

    def forget(self, study: str) -> None:
        """Drops what is known of a study that was found complete."""
        with self._lock:
            self._arrivals.pop(study, None)

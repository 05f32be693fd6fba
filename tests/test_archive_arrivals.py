"""When a study counts as complete; the clock is set by hand."""

from dataclasses import dataclass

import pytest

from pipeline.archive.arrivals import Arrivals


@dataclass(eq=False)
class FakeAssociation:
    alive: bool = True

    def is_alive(self) -> bool:
        return self.alive


class Clock:
    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def arrivals(clock: Clock) -> Arrivals:
    return Arrivals(10.0, patience_seconds=60.0, clock=clock)


def test_complete_once_quiet_for_long_enough_after_the_association(arrivals: Arrivals, clock: Clock) -> None:
    arrivals.note("s", FakeAssociation(alive=False))
    clock.seconds += 9.9
    assert not arrivals.is_complete("s")
    clock.seconds += 0.1
    assert arrivals.is_complete("s")


def test_each_object_starts_the_wait_again(arrivals: Arrivals, clock: Clock) -> None:
    one, other = FakeAssociation(alive=False), FakeAssociation(alive=False)
    arrivals.note("s", one)
    clock.seconds += 9
    arrivals.note("s", other)
    clock.seconds += 9
    assert not arrivals.is_complete("s")


def test_an_association_that_goes_on_is_waited_for_with_patience(arrivals: Arrivals, clock: Clock) -> None:
    association = FakeAssociation()
    arrivals.note("s", association)
    clock.seconds += 59
    assert not arrivals.is_complete("s")
    association.alive = False
    assert arrivals.is_complete("s")
    association.alive = True
    clock.seconds += 1
    assert arrivals.is_complete("s")


def test_a_study_from_before_the_start_waits_from_the_start(arrivals: Arrivals, clock: Clock) -> None:
    assert not arrivals.is_complete("old")
    clock.seconds += 10
    assert arrivals.is_complete("old")


def test_a_forgotten_study_begins_anew(arrivals: Arrivals, clock: Clock) -> None:
    arrivals.note("s", FakeAssociation())
    arrivals.forget("s")
    clock.seconds += 10
    assert arrivals.is_complete("s")
    arrivals.note("s", FakeAssociation(alive=False))
    assert not arrivals.is_complete("s")

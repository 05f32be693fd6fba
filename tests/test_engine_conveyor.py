"""Three steps at once: the order is kept, the next item is prepared early, and an early end is a clean one."""

import threading
from collections.abc import Callable

import pytest

from pipeline.engine.conveyor import conveyed

DEADLINE_SECONDS = 20


def conveyed_numbers(
    *, prepare: Callable[[int], int] = lambda item: item, compute: Callable[[int], int] = lambda item: item,
    finish: Callable[[int], int] = lambda item: item, overlaps: bool = True, count: int = 5,
) -> list[int]:
    return list(conveyed(range(count), prepare=prepare, compute=compute, finish=finish,
                         may_overlap=lambda _: overlaps))


@pytest.mark.parametrize("overlaps", [True, False])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_results_come_in_order(overlaps: bool, count: int) -> None:
    found = conveyed_numbers(prepare=lambda item: item + 1, compute=lambda item: item * 10,
                             finish=lambda item: item + 0.5, overlaps=overlaps, count=count)  # type: ignore[arg-type, return-value]
    assert found == [10.5, 20.5, 30.5, 40.5, 50.5][:count]


def test_the_next_item_is_prepared_while_one_is_computed() -> None:
    is_prepared = [threading.Event() for _ in range(4)]

    def compute(item: int) -> int:
        assert item == 2 or is_prepared[item + 1].wait(DEADLINE_SECONDS)
        return item

    assert conveyed_numbers(prepare=lambda item: is_prepared[item].set() or item, compute=compute, count=3) == [0, 1, 2]


def test_an_item_is_finished_while_the_next_is_computed() -> None:
    second_began = threading.Event()

    def compute(item: int) -> int:
        if item == 1:
            second_began.set()
        return item

    def finish(item: int) -> int:
        assert second_began.wait(DEADLINE_SECONDS)
        return item

    assert conveyed_numbers(compute=compute, finish=finish, count=2) == [0, 1]


def test_without_room_nothing_is_prepared_early() -> None:
    events: list[str] = []
    conveyed_numbers(prepare=lambda item: events.append(f"prepare {item}") or item,
                     compute=lambda item: events.append(f"compute {item}") or item,
                     finish=lambda item: events.append(f"finish {item}") or item, overlaps=False, count=2)
    assert events == ["prepare 0", "compute 0", "finish 0", "prepare 1", "compute 1", "finish 1"]


def test_an_interrupted_run_finishes_what_it_has_begun_and_begins_nothing() -> None:
    finished: list[int] = []
    prepared: list[int] = []

    def compute(item: int) -> int:
        if item == 2:
            raise KeyboardInterrupt
        return item

    with pytest.raises(KeyboardInterrupt):
        conveyed_numbers(prepare=lambda item: prepared.append(item) or item, compute=compute,
                         finish=lambda item: finished.append(item) or item, count=9)
    assert finished == [0, 1]
    assert len(prepared) <= 4

"""Three steps over many items at once: while one is computed, the next is prepared and the last one finished."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")
Computed = TypeVar("Computed")
Finished = TypeVar("Finished")


def conveyed(
    items: Sequence[Item], *, prepare: Callable[[Item], Prepared], compute: Callable[[Prepared], Computed],
    finish: Callable[[Computed], Finished], may_overlap: Callable[[Prepared], bool],
) -> Iterator[Finished]:
    """Yields ``finish(compute(prepare(item)))`` for each item, in order.

    `compute` runs in the calling thread; `prepare` and `finish` have a thread each and are for reading, packing and
    writing. All of torch belongs into `compute`: from several threads its own would fight for the cores, and telling
    one thread to use fewer tells them all. None of the three may raise: what fails is a result.

    Where the caller stops early or is interrupted, what `finish` has begun is brought to its end and nothing else is
    begun.

    Args:
        items: what to work on.
        prepare, compute, finish: the steps.
        may_overlap: asked with each prepared item whether memory allows to prepare the next one beside it.
    """
    with ThreadPoolExecutor(1, "prepare") as preparing, ThreadPoolExecutor(1, "finish") as finishing:
        last: Future[Finished] | None = None
        ahead: Future[Prepared] | None = None
        try:
            for position, item in enumerate(items):
                prepared = (ahead or preparing.submit(prepare, item)).result()
                overlaps = may_overlap(prepared)
                following = position + 1
                ahead = preparing.submit(prepare, items[following]) if overlaps and following < len(items) else None
                computed = compute(prepared)
                del prepared
                if last is not None:
                    yield last.result()
                last = finishing.submit(finish, computed)
                del computed
                if not overlaps:
                    yield last.result()
                    last = None
            if last is not None:
                yield last.result()
        finally:
            if ahead is not None:
                ahead.cancel()


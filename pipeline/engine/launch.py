"""Starts the processes of a training on this machine, as `torchrun` does, without its tracebacks."""

import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

# Of a rank that ended because its batch does not fit: the next start takes a smaller one (EX_TEMPFAIL).
START_AGAIN = 75
# For all ranks to end the running iteration and to write a checkpoint, when they are asked to stop.
STOPPING_S = 60


def launch(words: Sequence[str], *, processes: int) -> None:
    """Runs `python -m pipeline <words>` in so many processes, again where they ask for it, and waits for their end.

    Where one of them fails, the others are ended.

    Raises:
        SystemExit: one failed, with its exit code; or a signal arrived and was handed on, 128 and its number.
    """
    # What each would take by itself is all cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // processes)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the ranks say what is wrong
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id="segline", rdzv_backend="c10d",
                          rdzv_endpoint="localhost:0", max_restarts=0, shutdown_timeout=STOPPING_S)
    while True:
        try:
            with _signals_as_before():
                elastic_launch(config, sys.executable)("-m", "pipeline", *words)
        except ChildFailedError as error:
            codes = [failure.exitcode for failure in error.failures.values()]
            if START_AGAIN in codes:
                continue
            # Those that the launcher ended have a signal's number, below 0.
            raise SystemExit(max(codes) if max(codes) > 0 else 1) from None
        except SignalException as error:
            raise SystemExit(128 + error.sigval) from None
        return


@contextmanager
def _signals_as_before() -> Iterator[None]:
    """Gives signals back the handlers that torch's launcher replaces by its own, for good."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP,
                                                                signal.SIGQUIT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)

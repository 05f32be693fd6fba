"""A run while its network is trained: curves, pictures of validation cases, and the machine's load.

Training opens the run and feeds it; the track stage completes it. Nothing here raises or waits for the store.
"""

import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.tracking.feed import Feed
from pipeline.tracking.store import (
    LINEAGE,
    create_run,
    experiment_id_of,
    find_runs,
    line_of,
    metric_name,
    new_fold_run,
    open_client,
    store_uri,
)

# MLflow would try for minutes, and what waits for an answer here tries again by itself. Its pauses would draw from
# Python's random numbers as well.
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
FEEDS: dict[str, Feed] = {}


def start_run(experiment: str, *, lineage: str, fold: int | None = None) -> str | None:
    """Returns what names the run that training can feed, or None: this very state has a complete run already.

    The run is fresh: one that a killed training left unfinished is removed. A fold has a run of its own, below that of
    the experiment. Where the store cannot be reached (said on the terminal) it is opened as soon as it can be.
    """
    for name, value in IMPATIENT.items():
        os.environ.setdefault(name, value)
    open_run = partial(_open_run, experiment, lineage=lineage, fold=fold)
    try:
        run_id = open_run()
    except Exception as error:  # whatever the store's trouble is, it must not cost a training
        print(f"MLflow: no run yet ({line_of(error)}); training goes on", file=sys.stderr)
        name = f"waiting-{lineage}-{fold}"
        FEEDS[name] = Feed(open_run)
        return name
    return run_id


def publisher_of_curves(run: str | None) -> Callable[[dict[str, float], int], None]:
    """Returns a function of (values by name, step) that adds a point to each live curve of a run."""
    if run is None:
        return _publish_nothing
    feed = _feed_of(run)
    return lambda values, step: feed.add_points({metric_name(name): value for name, value in values.items()}, step)


def publisher_of_pictures(run: str | None) -> Callable[[str, NDArray[np.uint8], int], None]:
    """Returns a function of (name, RGB picture, step) that adds a picture to a run, whose page shows them by step."""
    if run is None:
        return lambda *_: None
    feed = _feed_of(run)
    return lambda name, picture, step: feed.add_picture(picture_key(name), picture, step)


def picture_key(name: str) -> str:
    """Returns a key that MLflow takes for a picture, other keys for other names: it knows ASCII alone."""
    return re.sub(r"[^A-Za-z0-9_\-./ ]", "_", name.encode("ascii", "backslashreplace").decode())


@contextmanager
def feeding(run: str | None) -> Iterator[None]:
    """Is around a training: follows the machine's load meanwhile, and says in the end how the run ended; None: nothing.

    The load are MLflow's `system/` curves, every ten seconds: numbers of processor, memory, disk, network and, where
    nvidia-ml-py is installed, of GPUs, and nothing else about the machine. What the store has not taken by the end
    gets one more attempt.
    """
    if run is None:
        yield
        return
    feed, is_over, status = _feed_of(run), threading.Event(), "FAILED"
    follower = threading.Thread(target=_follow_machine, args=(feed, _instruments(), is_over), daemon=True)
    follower.start()
    try:
        yield
        status = "FINISHED"
    except (SystemExit, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        is_over.set()
        follower.join()
        feed.close(status)
        del FEEDS[run]


def _open_run(experiment: str, *, lineage: str, fold: int | None) -> str | None:
    client = open_client()
    experiment_id = experiment_id_of(client, experiment)
    runs = find_runs(client, experiment_id, lineage)
    if runs.is_complete:
        return None
    if fold is not None:
        return new_fold_run(client, experiment, lineage=lineage, fold=fold)
    for run in runs.main:
        client.delete_run(run.info.run_id)
    return create_run(client, experiment_id, f"{experiment}-{lineage[:8]}", {LINEAGE: lineage})


def _feed_of(run: str) -> Feed:
    """Returns the one feed that a run has in this process."""
    if run not in FEEDS:
        FEEDS[run] = Feed(lambda: run)
    return FEEDS[run]


def _instruments() -> Any:
    """Returns MLflow's instruments that measure the machine's load, or None without them (said on the terminal)."""
    try:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        return SystemMetricsMonitor("unused", tracking_uri=store_uri())
    except Exception as error:  # the same as in start_run
        print(f"MLflow: no system metrics ({line_of(error)}); training goes on", file=sys.stderr)
        return None


def _follow_machine(feed: Feed, instruments: Any, is_over: threading.Event) -> None:
    """Reads the instruments until it is over. Their own thread would end where the store does not answer once."""
    step = 0
    try:
        while instruments is not None and not is_over.wait(instruments.sampling_interval):
            instruments.collect_metrics()
            load = {f"system/{name}": value for name, value in instruments.aggregate_metrics().items()}
            feed.add_points(load, step, is_training=False)
            step += 1
            for one in instruments.monitors:
                one.clear_metrics()
    except Exception as error:  # the same as in start_run
        print(f"MLflow: no more system metrics ({line_of(error)}); training goes on", file=sys.stderr)


def _publish_nothing(_values: dict[str, float], _step: int) -> None:
    """Stands in where no run wants curves."""

"""MLflow: one complete run for each experiment and state of data and code. The sole importer of mlflow.

A run is found again by its lineage tag, so tracking twice changes nothing: training opens the run and feeds it while it
goes on, the track stage completes it, and where training came from DVC's cache the track stage writes all of it.
The store is SQLite beside the project unless MLFLOW_TRACKING_URI names another.
"""

import logging
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.records.errors import InputError
from pipeline.records.runs import RunContent

if TYPE_CHECKING:
    from mlflow import MlflowClient

STORE = Path("mlflow.db")
ARTIFACTS = Path("mlartifacts")
LINEAGE, TRACKED = "segline.lineage", "segline.tracked"
BATCH = 1000  # metrics in one call: the server's limit
GRACE_S = 10.0  # for a store that does not answer when a training is over


@dataclass
class _Trouble:
    """Trouble with the store while a network is trained, which goes on all the same: the first is said."""

    what: str
    is_told: bool = False

    def tell(self, trouble: object) -> None:
        """Says what happened on the terminal, unless something was said before."""
        if not self.is_told:
            print(f"MLflow: {self.what} ({_first_line(trouble)}); training goes on", file=sys.stderr)
        self.is_told = True

    def take(self, record: logging.LogRecord) -> bool:
        """Filters a log: its first record is said, and none goes on to where logs go."""
        self.tell(record.getMessage())
        return False


def store_uri() -> str:
    """Returns where runs go: MLFLOW_TRACKING_URI, else a SQLite file in the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI", _local_store())


def printable_store() -> str:
    """Returns the store's URI without the `user:password@` it may hold."""
    scheme, separator, rest = store_uri().partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def start_run(experiment: str, *, lineage: str, fold: int | None = None) -> str | None:
    """Returns the id of a run that training can feed, or None where there is nothing to feed.

    None means: this very state has a complete run already, or the store cannot be reached (said on the terminal; the
    track stage tries again). The run is fresh: one that a killed training left unfinished is removed. The trainings of
    folds feed one run, so they go on with an unfinished one.
    """
    try:
        client, experiment_id = _client(), None
        experiment_id = _experiment_id(client, experiment)
        for run in _runs(client, experiment_id, lineage):
            if run.info.status == "FINISHED":
                return None
            if fold is not None:
                return str(run.info.run_id)
            client.delete_run(run.info.run_id)
        return _create_run(client, experiment_id, experiment, lineage)
    except Exception as error:  # whatever the store's trouble is, it must not cost a training
        _Trouble("no live curves").tell(error)
        return None


def curve_of_fold(name: str, fold: int | None) -> str:
    """Returns what a curve is called in a run: `train_loss`, or `train_loss.fold0` for that of a fold."""
    return name if fold is None else f"{name}.fold{fold}"


def publisher_of_curves(run_id: str | None, fold: int | None = None) -> Callable[[dict[str, float], int], None]:
    """Returns a function of (values by name, step) that adds a point to each live curve of a run."""
    if run_id is None:
        return _publish_nothing
    client, trouble = _client(), _Trouble("live curves stopped")

    def publish(values: dict[str, float], step: int) -> None:
        try:
            curves = {curve_of_fold(metric_name(name), fold): [(step, value)] for name, value in values.items()}
            # A fold that was killed and goes on tells its curves from the start, to the run that has them.
            _log_curves(client, run_id, curves if fold is None else _unknown_points(client, run_id, curves))
        except Exception as error:  # the same as in start_run; the track stage fills the gap
            trouble.tell(error)

    return publish


def publisher_of_pictures(
    run_id: str | None, fold: int | None = None
) -> Callable[[str, NDArray[np.uint8], int], None]:
    """Returns a function of (name, RGB picture, step) that adds a picture to a run, whose page shows them by step."""
    if run_id is None:
        return lambda *_: None
    client, trouble = _client(), _Trouble("live pictures stopped")

    def publish(name: str, picture: NDArray[np.uint8], step: int) -> None:
        if trouble.is_told:  # no more attempts: each would wait for the store
            return
        try:
            client.log_image(run_id, picture, key=curve_of_fold(picture_key(name), fold), step=step, synchronous=True)
        except Exception as error:  # the same as in start_run
            trouble.tell(error)

    return publish


def picture_key(name: str) -> str:
    """Returns a key that MLflow takes for a picture, other keys for other names: it knows ASCII alone."""
    return re.sub(r"[^A-Za-z0-9_\-./ ]", "_", name.encode("ascii", "backslashreplace").decode())


@contextmanager
def system_metrics(run_id: str | None, fold: int | None = None) -> Iterator[None]:
    """Adds, every ten seconds meanwhile, the machine's load to a run: MLflow's `system/` curves; none to None.

    They are numbers of processor, memory, disk, network and, where nvidia-ml-py is installed, of GPUs, and nothing else
    about the machine. Those of a fold are `system/fold0/` curves.
    """
    monitor = None if run_id is None else _started_monitor(run_id, fold)
    try:
        yield
    finally:
        if monitor is not None:
            # It waits for an answer of the store: in a thread, which may be left behind.
            end = threading.Thread(target=monitor.finish, daemon=True)
            end.start()
            end.join(GRACE_S)


def _started_monitor(run_id: str, fold: int | None) -> Any:
    """Returns MLflow's monitor at work, or None where there is none (said on the terminal)."""
    try:
        _client()  # tells MLflow where the store is
        from mlflow.system_metrics import system_metrics_monitor as module

        # The monitor's thread tells of its troubles by its log alone, as warnings.
        logger, trouble = logging.getLogger(module.__name__), _Trouble("system metrics stopped")
        logger.setLevel(logging.WARNING)
        logger.filters = [trouble.take]
        node = None if fold is None else f"fold{fold}"
        monitor = module.SystemMetricsMonitor(run_id, node_id=node, resume_logging=True)
        monitor.start()
        return monitor
    except Exception as error:  # the same as in start_run
        _Trouble("no system metrics").tell(error)
        return None


def metric_name(key: str) -> str:
    """Returns a name that MLflow takes: it reads some characters of label names as path separators."""
    return "".join(letter if letter.isalnum() or letter in "_-. " else "_" for letter in key)


def _local_store() -> str:
    return f"sqlite:///{STORE.absolute()}"


def _publish_nothing(_values: dict[str, float], _step: int) -> None:
    """Stands in where no run wants curves."""


def complete_run(experiment: str, *, lineage: str, content: RunContent) -> str:
    """Completes the run of a lineage, making it where it is missing, and returns its id.

    Raises:
        InputError: the store cannot be reached or refuses.
    """
    try:
        client = _client()
        experiment_id = _experiment_id(client, experiment)
        runs = _runs(client, experiment_id, lineage)
        run_id = runs[0].info.run_id if runs else _create_run(client, experiment_id, experiment, lineage)
        if client.get_run(run_id).data.tags.get(TRACKED) != content.digest:
            _fill(client, run_id, content)
            _register(client, experiment, run_id, content)
            client.set_terminated(run_id, "FINISHED")
            client.set_tag(run_id, TRACKED, content.digest)
        return str(run_id)
    except Exception as error:
        raise InputError(f"MLflow store {printable_store()}", found=_first_line(error),
                         wanted="a store that takes the run", reason="tracking-store",
                         remedy="start the server or unset MLFLOW_TRACKING_URI, then run the track stage") from error


def _client() -> "MlflowClient":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    mlflow.set_tracking_uri(store_uri())
    return mlflow.MlflowClient()


def _experiment_id(client: "MlflowClient", experiment: str) -> str:
    found = client.get_experiment_by_name(experiment)
    if found is not None:
        return str(found.experiment_id)
    # A server keeps artifacts where it likes; the local store would put them below the folder of its own choice.
    location = ARTIFACTS.absolute().as_uri() if store_uri() == _local_store() else None
    return str(client.create_experiment(experiment, artifact_location=location))


def _runs(client: "MlflowClient", experiment_id: str, lineage: str) -> list[Any]:
    return list(client.search_runs([experiment_id], f"tags.`{LINEAGE}` = '{lineage}'"))


def _create_run(client: "MlflowClient", experiment_id: str, experiment: str, lineage: str) -> str:
    run = client.create_run(experiment_id, run_name=f"{experiment}-{lineage[:8]}", tags={LINEAGE: lineage})
    return str(run.info.run_id)


def _fill(client: "MlflowClient", run_id: str, content: RunContent) -> None:
    from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag

    params = [Param(name, value) for name, value in content.params.items()]
    # The latest time wins, so that a second evaluation of the same training replaces the first.
    now = int(time.time() * 1000)
    metrics = [Metric(name, value, now, 0) for name, value in content.metrics.items()]
    tags = [RunTag(name, value) for name, value in content.tags.items()]
    client.log_batch(run_id, metrics=metrics, params=params, tags=tags)
    _log_curves(client, run_id, _unknown_points(client, run_id, content.curves))
    dataset = Dataset(content.dataset_name, content.dataset_digest[:36], "local", content.dataset_name)
    client.log_inputs(run_id, [DatasetInput(dataset)])
    client.log_table(run_id, data=dict(content.table), artifact_file="tables/cases.json")
    for file, folder in content.artifacts.items():
        client.log_artifact(run_id, str(file), folder)


def _unknown_points(
    client: "MlflowClient", run_id: str, curves: Mapping[str, Sequence[tuple[int, float]]]
) -> dict[str, list[tuple[int, float]]]:
    """Returns those points of curves whose steps the run does not have yet."""
    known = {name: {point.step for point in client.get_metric_history(run_id, name)} for name in curves}
    return {name: [point for point in points if point[0] not in known[name]] for name, points in curves.items()}


def _log_curves(client: "MlflowClient", run_id: str, curves: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    points = [Metric(name, value, now, step) for name, pairs in curves.items() for step, value in pairs]
    for start in range(0, len(points), BATCH):
        client.log_batch(run_id, metrics=points[start : start + BATCH])


def _register(client: "MlflowClient", experiment: str, run_id: str, content: RunContent) -> None:
    """Registers the bundle as the next version of the experiment's model, once for each run."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Schema

    name = f"segline-{experiment}"
    if client.search_model_versions(f"name='{name}' and run_id='{run_id}'"):
        return
    texts = Schema([ColSpec("string", "scan"), ColSpec("string", "output_dir")])
    with mlflow.start_run(run_id=run_id), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input example")  # the signature is given, not inferred
        mlflow.pyfunc.log_model(
            name="model", loader_module="pipeline.bundle", data_path=str(content.model_folder),
            code_paths=[str(Path(__file__).parent)], pip_requirements=list(content.requirements),
            signature=ModelSignature(inputs=texts), registered_model_name=name,
        )


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

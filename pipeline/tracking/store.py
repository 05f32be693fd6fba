"""Where runs go: MLflow's client, and the runs of one experiment and state of data and code.

Runs are found again by their lineage tag. A state has one run; with folds it is the parent of a run for each of them.
The store is SQLite beside the project unless MLFLOW_TRACKING_URI names another.
"""

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

STORE = Path("mlflow.db")
ARTIFACTS = Path("mlartifacts")
LINEAGE, FOLD, TRACKED = "segline.lineage", "segline.fold", "segline.tracked"
PARENT = "mlflow.parentRunId"  # by which MLflow's own pages nest runs
BATCH = 1000  # metrics in one call: the server's limit


@dataclass(frozen=True)
class StateRuns:
    """The runs of one experiment and state: `main`, the oldest first, and those of its folds by number.

    More than one `main` there is only where two machines began at the same moment.
    """

    main: Sequence[Any]
    folds: Mapping[int, Any]

    @property
    def is_complete(self) -> bool:
        """Whether the track stage has written all of it."""
        return any(TRACKED in run.data.tags for run in self.main)


def store_uri() -> str:
    """Returns where runs go: MLFLOW_TRACKING_URI, else a SQLite file in the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI", _local_store())


def printable_store() -> str:
    """Returns the store's URI without the `user:password@` it may hold."""
    return without_password(store_uri())


def without_password(text: str) -> str:
    """Returns a text whose addresses have lost their `user:password@`.

    >>> without_password("no answer from http://me:secret@host:80/a")
    'no answer from http://host:80/a'
    """
    return re.sub(r"://[^/\s]*@", "://", text)


def line_of(error: object) -> str:
    """Returns the first line of what an error says, fit for the terminal."""
    return without_password((str(error).strip().splitlines() or [type(error).__name__])[0])


def open_client() -> "MlflowClient":
    """Returns MLflow's client of the store, which MLflow's own functions then use as well."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    mlflow.set_tracking_uri(store_uri())
    return mlflow.MlflowClient()


def experiment_id_of(client: "MlflowClient", experiment: str) -> str:
    """Returns the id of MLflow's experiment of that name, made if it is missing."""
    found = client.get_experiment_by_name(experiment)
    if found is not None:
        return str(found.experiment_id)
    # A server keeps artifacts where it likes; the local store would put them below the folder of its own choice.
    location = ARTIFACTS.absolute().as_uri() if store_uri() == _local_store() else None
    return str(client.create_experiment(experiment, artifact_location=location))


def find_runs(client: "MlflowClient", experiment_id: str, lineage: str) -> StateRuns:
    """Returns the runs of a state that were not deleted."""
    found = sorted(client.search_runs([experiment_id], f"tags.`{LINEAGE}` = '{lineage}'"),
                   key=lambda run: (run.info.start_time, run.info.run_id))
    return StateRuns([run for run in found if FOLD not in run.data.tags],
                     {int(run.data.tags[FOLD]): run for run in reversed(found) if FOLD in run.data.tags})


def create_run(client: "MlflowClient", experiment_id: str, name: str, tags: Mapping[str, str]) -> str:
    """Returns the id of a new run, whose tags say the state and what it is of it."""
    return str(client.create_run(experiment_id, run_name=name, tags=dict(tags)).info.run_id)


def main_run(client: "MlflowClient", experiment: str, lineage: str) -> str:
    """Returns the id of a state's main run, made if it is missing."""
    experiment_id = experiment_id_of(client, experiment)
    if not find_runs(client, experiment_id, lineage).main:
        create_run(client, experiment_id, f"{experiment}-{lineage[:8]}", {LINEAGE: lineage})
    # Folds on two machines may have made one each: both see both, and both keep the first.
    first, *others = find_runs(client, experiment_id, lineage).main
    for other in others:
        client.delete_run(other.info.run_id)
    return str(first.info.run_id)


def new_fold_run(client: "MlflowClient", experiment: str, *, lineage: str, fold: int) -> str:
    """Returns the id of a new run of a fold, below the state's main run; another of that fold is removed."""
    parent, experiment_id = main_run(client, experiment, lineage), experiment_id_of(client, experiment)
    earlier = find_runs(client, experiment_id, lineage).folds.get(fold)
    if earlier is not None:
        client.delete_run(earlier.info.run_id)
    name = f"{experiment}.fold{fold}-{lineage[:8]}"
    return create_run(client, experiment_id, name, {LINEAGE: lineage, FOLD: str(fold), PARENT: parent})


def metric_name(key: str) -> str:
    """Returns a name that MLflow takes: it reads some characters of label names as path separators."""
    return "".join(letter if letter.isalnum() or letter in "_-. " else "_" for letter in key)


def now_ms() -> int:
    """Returns this moment as MLflow notes it."""
    return int(time.time() * 1000)


def _local_store() -> str:
    return f"sqlite:///{STORE.absolute()}"

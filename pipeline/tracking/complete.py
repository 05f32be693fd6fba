"""A complete run for each experiment and state: what training told it live, and everything the stages wrote since.

Where training came from DVC's cache all of it is written here. Tracking twice changes nothing.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from pipeline.records.errors import InputError
from pipeline.records.runs import FoldContent, RunContent
from pipeline.tracking.datasets import input_of
from pipeline.tracking.models import register
from pipeline.tracking.store import (
    BATCH,
    TRACKED,
    experiment_id_of,
    find_runs,
    line_of,
    main_run,
    new_fold_run,
    now_ms,
    open_client,
    printable_store,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient


def complete_run(experiment: str, *, lineage: str, content: RunContent) -> str:
    """Completes the run of a lineage and those of its folds, making what is missing, and returns its id.

    Raises:
        InputError: the store cannot be reached or refuses.
    """
    try:
        client = open_client()
        run_id = main_run(client, experiment, lineage)
        if client.get_run(run_id).data.tags.get(TRACKED) != content.digest:
            _fill(client, run_id, content)
            client.log_batch(run_id, metrics=_metrics(over_folds(list(content.folds.values()))))
            client.log_table(run_id, data=dict(content.table), artifact_file="tables/cases.json")
            _complete_folds(client, experiment, lineage, content.folds)
            register(client, experiment, run_id, lineage=lineage, content=content)
            client.set_terminated(run_id, "FINISHED")
            client.set_tag(run_id, TRACKED, content.digest)
        return run_id
    except Exception as error:
        raise InputError(f"MLflow store {printable_store()}", found=line_of(error),
                         wanted="a store that takes the run", reason="tracking-store",
                         remedy="start the server or unset MLFLOW_TRACKING_URI, then run the track stage") from error


def over_folds(folds: Sequence[FoldContent]) -> dict[str, float]:
    """Returns mean and standard deviation over the folds of their metrics and of what their validation ended with.

    They are called ``folds.<name>.mean`` and ``folds.<name>.std``, by N - 1; what a fold lacks is left out.
    """
    found = [{**{name: points[-1][1] for name, points in fold.curves.items() if points and "validation" in name},
              **fold.metrics} for fold in folds]
    shared = [name for name in found[0] if all(name in values for values in found)] if len(found) > 1 else []
    columns = {name: [values[name] for values in found] for name in shared}
    return {f"folds.{name}.{what}": measure(values) for name, values in columns.items()
            for what, measure in (("mean", fmean), ("std", stdev))}


def _complete_folds(
    client: "MlflowClient", experiment: str, lineage: str, folds: Mapping[int, FoldContent]
) -> None:
    known = find_runs(client, experiment_id_of(client, experiment), lineage).folds
    for fold, content in folds.items():
        run_id = known[fold].info.run_id if fold in known else new_fold_run(client, experiment, lineage=lineage,
                                                                           fold=fold)
        _fill(client, run_id, content)
        client.set_terminated(run_id, "FINISHED")


def _fill(client: "MlflowClient", run_id: str, content: FoldContent) -> None:
    from mlflow.entities import Param, RunTag

    params = [Param(name, value) for name, value in content.params.items()]
    tags = [RunTag(name, value) for name, value in content.tags.items()]
    client.log_batch(run_id, metrics=_metrics(content.metrics), params=params, tags=tags)
    _log_unknown_points(client, run_id, content.curves)
    client.log_inputs(run_id, [input_of(dataset) for dataset in content.datasets])
    for file, folder in content.artifacts.items():
        client.log_artifact(run_id, str(file), folder)


def _metrics(values: Mapping[str, float]) -> list[object]:
    from mlflow.entities import Metric

    # The latest time wins, so that a second evaluation of the same training replaces the first.
    now = now_ms()
    return [Metric(name, value, now, 0) for name, value in values.items()]


def _log_unknown_points(
    client: "MlflowClient", run_id: str, curves: Mapping[str, Sequence[tuple[int, float]]]
) -> None:
    """Adds those points of curves whose steps the run does not have yet."""
    from mlflow.entities import Metric

    known = {name: {point.step for point in client.get_metric_history(run_id, name)} for name in curves}
    now = now_ms()
    points = [Metric(name, value, now, step) for name, pairs in curves.items() for step, value in pairs
              if step not in known[name]]
    for start in range(0, len(points), BATCH):
        client.log_batch(run_id, metrics=points[start : start + BATCH])

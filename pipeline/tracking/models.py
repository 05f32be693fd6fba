"""MLflow's model registry: the trained bundle of an experiment's run as the next version of its model.

The alias `champion` marks the version to use: the first there is, until a comparison says that another is better.
The newest is MLflow's own ``models:/NAME/latest`` and needs no alias.
"""

import warnings
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pipeline.records.errors import InputError
from pipeline.records.files import write_text
from pipeline.records.runs import RunContent
from pipeline.tracking.store import LINEAGE, line_of, open_client, printable_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
CASE_TABLE = "tables/cases.csv"  # among a run's artifacts


def model_name(experiment: str) -> str:
    """Returns what the model of an experiment is called in the registry."""
    return f"segline-{experiment}"


def register(client: "MlflowClient", experiment: str, run_id: str, *, lineage: str, content: RunContent) -> None:
    """Registers the bundle as the next version of the experiment's model, once for each run.

    Where the model has no champion this version becomes it.
    """
    name = model_name(experiment)
    found = client.search_model_versions(f"name='{name}' and run_id='{run_id}'")
    number = str(found[0].version if found else _log_model(name, run_id, content))
    client.set_model_version_tag(name, number, LINEAGE, lineage)
    if CHAMPION not in client.get_registered_model(name).aliases:
        client.set_registered_model_alias(name, CHAMPION, number)


def champion_of(experiment: str) -> str | None:
    """Returns the lineage of the version that is the champion, or None where the experiment has no such model.

    Raises:
        InputError: ``tracking-store``: the store cannot be reached.
    """
    try:
        version = _champion(open_client(), experiment)
        return None if version is None else str(version.tags[LINEAGE])
    except Exception as error:
        raise _store_trouble(error) from error


def champion_table(experiment: str) -> str | None:
    """Returns cases.csv of the champion's run as text, or None where the experiment has no champion.

    Raises:
        InputError: ``tracking-store``: the store cannot be reached, or has lost the table.
    """
    try:
        client = open_client()
        version = _champion(client, experiment)
        if version is None:
            return None
        with TemporaryDirectory() as folder:
            return Path(client.download_artifacts(version.run_id, CASE_TABLE, folder)).read_text(encoding="utf-8")
    except Exception as error:
        raise _store_trouble(error) from error


def move_champion(experiment: str, *, lineage: str) -> str:
    """Makes the version of a lineage the champion of the experiment's model, and returns its number.

    It is for who compared: where it is the champion already nothing changes.

    Raises:
        InputError: ``no-such-version``: that state is not tracked yet; ``tracking-store``: the store cannot be reached.
    """
    name = model_name(experiment)
    try:
        client = open_client()
        found = client.search_model_versions(f"name='{name}' and tags.`{LINEAGE}` = '{lineage}'")
        if found:
            client.set_registered_model_alias(name, CHAMPION, found[0].version)
            return str(found[0].version)
    except Exception as error:
        raise _store_trouble(error) from error
    raise InputError(f"{name} in {printable_store()}", found=f"no version of the state {lineage[:8]}",
                     wanted="one that the track stage has registered", reason="no-such-version",
                     remedy=f"run `python -m pipeline track --experiment {experiment}`")


def _champion(client: "MlflowClient", experiment: str) -> Any:
    name = model_name(experiment)
    models = client.search_registered_models(f"name='{name}'")
    version = dict(models[0].aliases).get(CHAMPION) if models else None
    return None if version is None else client.get_model_version(name, version)


def _log_model(name: str, run_id: str, content: RunContent) -> Any:
    """Returns the number of the new version: the bundle and the project's own code as files, nothing pickled."""
    import mlflow

    with mlflow.start_run(run_id=run_id), TemporaryDirectory() as folder, warnings.catch_warnings():
        # It would be segmented now, and a scan of a patient is nothing to keep with a model.
        warnings.filterwarnings("ignore", message=".*input example")
        return mlflow.pyfunc.log_model(
            name="model", loader_module="pipeline.registered_bundle", data_path=str(content.model_folder),
            code_paths=[str(Path(__file__).parents[1]), str(_write_own_metadata(Path(folder)))],
            pip_requirements=list(content.requirements),
            signature=_signature(), registered_model_name=name,
        ).registered_model_version


def _write_own_metadata(folder: Path) -> Path:
    """Returns what tells Python the version of the code beside it, where the project is not installed.

    Source: Core metadata specifications, packaging.python.org.
    """
    found = version("segline")
    written = folder / f"segline-{found}.dist-info"
    write_text(written / "METADATA", f"Metadata-Version: 2.1\nName: segline\nVersion: {found}\n")
    return written


def _signature() -> Any:
    """Returns what `pipeline.registered_bundle` takes and gives."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Map

    inputs = [ColSpec("string", "scan"), ColSpec("string", "output_dir", required=False)]
    outputs = [*(ColSpec("string", name) for name in ("scan", "input", "status")),
               *(ColSpec("string", name, required=False) for name in ("reason", "message", "segmentation")),
               ColSpec(Map(DataType.double), "volumes_ml"), ColSpec("boolean", "low_confidence")]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))


def _store_trouble(error: Exception) -> InputError:
    return InputError(f"MLflow store {printable_store()}", found=line_of(error), wanted="a store that answers",
                      remedy="start the server or unset MLFLOW_TRACKING_URI", reason="tracking-store")

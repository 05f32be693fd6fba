"""MLflow's model registry: the trained bundle of an experiment's run as the next version of its model."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.records.runs import RunContent

if TYPE_CHECKING:
    from mlflow import MlflowClient


def register(client: "MlflowClient", experiment: str, run_id: str, content: RunContent) -> None:
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
            code_paths=[str(Path(__file__).parents[1])], pip_requirements=list(content.requirements),
            signature=ModelSignature(inputs=texts), registered_model_name=name,
        )

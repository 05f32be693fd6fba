"""The data of a run as MLflow's datasets: digest, source, schema and counts, and nothing about any patient."""

import json
from typing import TYPE_CHECKING, Any

from pipeline.records.runs import DatasetContent

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

CONTEXT = "mlflow.data.context"  # by which MLflow's own pages tell datasets apart
DIGEST = "segline.data_digest"
MOST_DIGITS = 36  # of a digest in MLflow


def input_of(content: DatasetContent) -> "DatasetInput":
    """Returns a dataset with what it is for, fit for `MlflowClient.log_inputs`; its tag has the whole digest."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    tags = [InputTag(CONTEXT, content.context), InputTag(DIGEST, content.digest)]
    return DatasetInput(Dataset(**_dataset_of(content).to_dict()), tags)


def _dataset_of(content: DatasetContent) -> Any:
    """Returns MLflow's description of cases, images as features and label maps as targets, of any size."""
    import numpy as np
    from mlflow.data.dataset_source_registry import get_dataset_source_from_json
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.data.schema import TensorDatasetSchema
    from mlflow.types import Schema, TensorSpec

    class CaseDataset(MetaDataset):
        def to_dict(self) -> dict[str, str]:
            images = [TensorSpec(np.dtype("float32"), (-1, -1, -1), name) for name in content.channels]
            labels = [TensorSpec(np.dtype("uint8"), (-1, -1, -1), "label")]
            schema = TensorDatasetSchema(Schema(images), Schema(labels)).to_dict()
            profile = {**content.counts, "modality": content.modality, "labels": dict(content.labels)}
            return {**super().to_dict(), "schema": json.dumps(schema), "profile": json.dumps(profile)}

    source = get_dataset_source_from_json(json.dumps({"uri": content.root}), source_type="local")
    return CaseDataset(source, name=content.name, digest=content.digest[:MOST_DIGITS])

"""What a complete run of an experiment consists of, whatever keeps it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunContent:
    """Everything a complete run holds.

    `curves` maps a name to (step, value) pairs. `artifacts` maps a file to the folder it gets in the run.
    `model_folder` is the trained bundle to register, `digest` stands for all of the content.
    """

    digest: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    curves: Mapping[str, Sequence[tuple[int, float]]]
    artifacts: Mapping[Path, str]
    table: Mapping[str, Sequence[Any]]
    dataset_name: str
    dataset_digest: str
    model_folder: Path
    requirements: Sequence[str]

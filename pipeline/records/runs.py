"""What a complete run of an experiment consists of, whatever keeps it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class DatasetContent:
    """The cases that a run used for one purpose, without anything about one of them.

    `context` is ``training``, ``validation`` or ``evaluation``; `root` is relative to the repository; `digest` is of
    the contents of all images and labels. `channels` name an image's, `labels` the values of a label map, which has
    one channel and the image's grid. `counts` are of cases, of patients and of cases with a label.
    """

    name: str
    context: str
    digest: str
    root: str
    modality: str
    channels: Sequence[str]
    labels: Mapping[str, int]
    counts: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class FoldContent:
    """Everything that the complete run of one training holds.

    `curves` maps a name to (step, value) pairs. `artifacts` maps a file to the folder it gets in the run.
    """

    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    curves: Mapping[str, Sequence[tuple[int, float]]]
    artifacts: Mapping[Path, str]
    datasets: Sequence[DatasetContent]


@dataclass(frozen=True, kw_only=True)
class RunContent(FoldContent):
    """Everything that a complete run of an experiment holds, and those of its folds by their number.

    `model_folder` is the trained bundle to register, `digest` stands for all of the content.
    """

    digest: str
    table: Mapping[str, Sequence[Any]]
    model_folder: Path
    requirements: Sequence[str]
    folds: Mapping[int, FoldContent] = field(default_factory=dict)

"""The plan: what the training cases imply for network, patch, intensities and length of training.

`plan.yaml` is merged over the template bundle's configs, so every field here is a key that those configs refer to.
"""

from dataclasses import asdict, dataclass, fields
from math import prod
from pathlib import Path
from typing import Any

import yaml

from pipeline.records.errors import InputError
from pipeline.records.files import write_text
from pipeline.records.strict_yaml import read_yaml, refuse_unknown_keys

# Why each value is what it is: written above its line, for the people who read the plan before they override it.
COMMENTS = {
    "spatial_dims": "3: volumes. 2: slices (or 2D images).",
    "slice_axis": "Axis of the RAS volume that a 2D network steps along; null for 3D.",
    "spacing_mm": "Voxel spacing that the network sees, x y z in RAS; -1 keeps a scan's own (2D: across slices).",
    "patch_size": "Voxels the network sees at once, x y z.",
    "model_name": "What DICOM outputs call the model.",
    "intensity": "ct: clip to foreground percentiles of the training cases, then z-score. z-score: per scan.",
    "intensity_range": "CT: lowest and highest intensity of the training scans; far from it at inference is a warning.",
    "modality": "DICOM code of the training scans; another one at inference is a warning.",
    "labels": "Names and values of the label maps that this model learns and writes.",
    "codes": "For DICOM, by label name: {category, type, modifier}, each [value, scheme, meaning]; {} looks names up.",
    "network_def": "The network, as MONAI instantiates it.",
    "batch_size": "Patches per iteration.",
    "iterations": "Optimiser steps; epochs only say how often the curves get a point.",
    "validate_every": "Epochs between two validations.",
    "learning_rate": "Peak of the warm-up and cosine schedule.",
    "foreground_fraction": "Share of patches centred on a voxel of a label, each present label equally often.",
    "class_weights": "Of background and each label in the loss: the rarer, the heavier, because a miss costs more.",
    "rotation_rad": "Largest rotation of the augmentation about x, y, z (2D: the first counts).",
    "seed": "Seeds weights, patches and augmentation.",
}
# Fields that YAML gives back as lists.
TUPLES = ("spacing_mm", "patch_size", "intensity_range", "class_weights", "rotation_rad")


@dataclass(frozen=True)
class Plan:
    """One value for everything that depends on the data. Fields are explained by `COMMENTS`."""

    spatial_dims: int
    slice_axis: int | None
    spacing_mm: tuple[float, float, float]
    patch_size: tuple[int, int, int]
    model_name: str
    intensity: dict[str, Any]
    intensity_range: tuple[float, float] | None
    modality: str
    labels: dict[str, int]
    codes: dict[str, Any]
    network_def: dict[str, Any]
    batch_size: int
    iterations: int
    epochs: int
    validate_every: int
    learning_rate: float
    foreground_fraction: float
    class_weights: tuple[float, ...]
    rotation_rad: tuple[float, float, float]
    seed: int


def check_plan(plan: Plan, where: Path, *, labels: dict[str, int]) -> None:
    """Checks what a person's overrides can break, before hours are spent on it.

    Raises:
        InputError: a value in `where` does not fit the others.
    """
    strides = plan.network_def.get("strides", [])
    in_plane = [axis for axis in range(3) if axis != plan.slice_axis]
    multiples = [prod(stride[i] for stride in strides) for i in range(len(in_plane))]
    claims = {
        "spacing_mm": (len(plan.spacing_mm) == 3, "three numbers, x y z in RAS"),
        "patch_size": (
            len(plan.patch_size) == 3
            and all(plan.patch_size[axis] % multiple == 0 for axis, multiple in zip(in_plane, multiples, strict=True)),
            f"three numbers, x y z, multiples of {multiples} over the network's axes",
        ),
        "labels": (plan.labels == labels, f"the dataset's own, {labels}"),
        "class_weights": (len(plan.class_weights) == len(labels) + 1, f"{len(labels) + 1} numbers"),
        "epochs": (1 <= plan.epochs <= plan.iterations, f"1 to the {plan.iterations} iterations"),
        "validate_every": (1 <= plan.validate_every <= plan.epochs, f"1 to the {plan.epochs} epochs"),
    }
    for key, (holds, wanted) in claims.items():
        if not holds:
            raise InputError(where, found=f"`{key}: {_plain(getattr(plan, key))}`", wanted=wanted,
                             remedy="correct it, or remove the line to have it planned", reason="invalid-plan")


def write_plan(path: Path, plan: Plan) -> None:
    """Writes the plan as commented YAML, the same bytes for the same plan."""
    lines = ["# Derived by `python -m pipeline plan`; override any value in configs/<experiment>/bundle.yaml."]
    for key, value in asdict(plan).items():
        if key in COMMENTS:
            lines.append(f"# {COMMENTS[key]}")
        # None: lists of scalars on one line; False: a scalar stays `key: value`.
        style = None if isinstance(value, (dict, list, tuple)) else False
        text = yaml.safe_dump({key: _plain(value)}, default_flow_style=style, sort_keys=False, width=110)
        lines.append(text.rstrip())
    write_text(path, "\n".join(lines) + "\n")


def read_plan(path: Path) -> Plan:
    """Reads a plan that `write_plan` wrote.

    Raises:
        InputError: the file is missing, or has keys that no plan has.
    """
    content = read_yaml(path)
    refuse_unknown_keys(set(content), {item.name for item in fields(Plan)}, path)
    tuples = {key: tuple(content[key]) for key in TUPLES if content[key] is not None}
    return Plan(**{**content, **tuples})


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value

"""The plan: what the training cases imply for network, patch, intensities and length of training.

`plan.yaml` is merged over the template bundle's configs, so every field here but `OF_THE_SCHEDULE` is a key that those
configs refer to.
"""

import re
from dataclasses import asdict, dataclass, fields
from math import prod
from pathlib import Path
from typing import Any

from pipeline.records.commented_yaml import commented_yaml, plain
from pipeline.records.errors import InputError
from pipeline.records.files import write_text
from pipeline.records.postprocessing import EVERYTHING
from pipeline.records.strict_yaml import read_exactly

# What each value means: written above its line, for the people who read the plan before they override it.
COMMENTS = {
    "spatial_dims": "3: volumes. 2: slices (or 2D images).",
    "slice_axis": "Axis of the RAS volume that a 2D network steps along; null for 3D.",
    "spacing_mm": "Voxel spacing that the network sees, x y z in RAS; -1 keeps a scan's own (2D: across slices). "
                  "Images are resampled linearly, labels to the nearest voxel.",
    "patch_size": "Voxels the network sees at once, x y z.",
    "channels": "Of the images, in the order in which the network takes them; another number of them is refused.",
    "pictures": "true: PNG and TIFF are segmented, and nothing else. false: volumes, and slices of them.",
    "model_name": "What DICOM outputs call the model.",
    "intensity": "ct: clip to foreground percentiles of the training cases, then z-score. z-score: per scan.",
    "intensity_range": "CT: lowest and highest intensity of the training scans; far from it at inference is a warning.",
    "modality": "DICOM code of the training scans; another one at inference is a warning.",
    "labels": "Names and values of the label maps that this model learns and writes.",
    "codes": "For DICOM, by label name: {category, type, modifier}, each [value, scheme, meaning]; {} looks names up.",
    "network_def": "The network, as MONAI instantiates it.",
    "batch_size": "Patches per optimiser step, of each process.",
    "processes": "That train together, one for each GPU: N of them make a batch N times as large.",
    "memory_gib": "Memory that training may take, its cases aside; the schedule checks it on the device at hand.",
    "budget": "How long a training may take (s, min or h), with folds each of them; null where `iterations` are set.",
    "iterations": "Optimiser steps; epochs only say how often the curves get a point. null: as the budget allows.",
    "epochs": "Points of the curves; null: the schedule chooses, as it does the two below.",
    "validate_every": "Epochs between two validations.",
    "precision": "float32, bfloat16 or float16 convolutions; null: the fastest that is safe.",
    "learning_rate": "Peak of the warm-up and cosine schedule.",
    "ema_momentum": "Share of each step's weights in the running average that is validated and kept.",
    "loss": "dice_ce; dice or cross_entropy alone; tversky_ce: as dice_ce, but a miss may cost more than a false find.",
    "recall_weight": "Of tversky_ce: what a missed voxel costs, of 1 shared with one found wrongly; else null.",
    "foreground_fraction": "Share of patches centred on a voxel of a label, each present label equally often.",
    "class_weights": "Of background and each label in the loss: the rarer, the heavier, because a miss costs more.",
    "rotation_rad": "Largest rotation of the augmentation about x, y, z (2D: the first counts).",
    "mirror_axes": "Of the RAS volume; training mirrors half of the patches along each. 0 is left and right.",
    "mirror_swaps": "Pairs of label values that exchange where left and right do.",
    "largest_component": "Labels of which only the largest component is kept, or ['*']: of all together; null: what "
                         "is worth it on the validation cases, at the end of training.",
    "seed": "Seeds weights, patches and augmentation.",
}
# Fields that YAML gives back as lists.
TUPLES = ("spacing_mm", "patch_size", "channels", "intensity_range", "class_weights", "rotation_rad", "mirror_axes",
          "mirror_swaps", "largest_component")
# Fields that only the schedule stage reads.
OF_THE_SCHEDULE = ("memory_gib", "budget")
LOSSES = ("dice_ce", "dice", "cross_entropy", "tversky_ce")
PRECISIONS = ("float32", "bfloat16", "float16")
SECONDS = {"s": 1, "min": 60, "h": 3600}
LIBRARIES_GIB = 1.0  # what torch and MONAI take before the first patch


@dataclass(frozen=True)
class Plan:
    """One value for everything that depends on the data. Fields are explained by `COMMENTS`."""

    spatial_dims: int
    slice_axis: int | None
    spacing_mm: tuple[float, float, float]
    patch_size: tuple[int, int, int]
    channels: tuple[str, ...]
    pictures: bool
    model_name: str
    intensity: dict[str, Any]
    intensity_range: tuple[float, float] | None
    modality: str
    labels: dict[str, int]
    codes: dict[str, Any]
    network_def: dict[str, Any]
    batch_size: int
    processes: int
    memory_gib: float
    budget: str | None
    iterations: int | None
    epochs: int | None
    validate_every: int | None
    precision: str | None
    learning_rate: float
    ema_momentum: float
    loss: str
    recall_weight: float | None
    foreground_fraction: float
    class_weights: tuple[float, ...]
    rotation_rad: tuple[float, float, float]
    mirror_axes: tuple[int, ...]
    mirror_swaps: tuple[tuple[int, int], ...]
    largest_component: tuple[str, ...] | None
    seed: int

    @property
    def patch_shape(self) -> tuple[int, ...]:
        """What the network gets of one patch: channels, then its own spatial axes."""
        spatial = (size for axis, size in enumerate(self.patch_size) if axis != self.slice_axis)
        return len(self.channels), *spatial


def budget_seconds(budget: Any, where: Path) -> float:
    """Returns the seconds of a time such as `15 min`, `2 h` or `90 s`.

    Raises:
        InputError: ``invalid-budget``: it is no such time, or none at all.
    """
    found = re.fullmatch(rf"\s*(\d+(?:\.\d+)?)\s*({'|'.join(SECONDS)})\s*", budget) if isinstance(budget, str) else None
    seconds = float(found[1]) * SECONDS[found[2]] if found else 0.0
    if seconds == 0:
        raise InputError(where, found=f"`budget: {budget}`", wanted="a time such as `15 min`, `2 h` or `90 s`",
                         remedy="write a number and its unit", reason="invalid-budget")
    return seconds


def check_plan(plan: Plan, where: Path, *, labels: dict[str, int]) -> None:
    """Checks what a person's overrides can break, before hours are spent on it.

    Args:
        plan: with the overrides.
        where: the file they stand in.
        labels: the dataset's.

    Raises:
        InputError: a value in `where` does not fit the others.
    """
    claims = _geometry_claims(plan) | _length_claims(plan) | _data_claims(plan, labels)
    for key, (holds, wanted) in claims.items():
        if not holds:
            raise InputError(where, found=f"`{key}: {plain(getattr(plan, key))}`", wanted=wanted,
                             remedy="correct it, or remove the line to have it planned", reason="invalid-plan")


def _geometry_claims(plan: Plan) -> dict[str, tuple[bool, str]]:
    strides = plan.network_def.get("strides", [])
    in_plane = [axis for axis in range(3) if axis != plan.slice_axis]
    multiples = [prod(stride[i] for stride in strides) for i in range(len(in_plane))]
    taken = plan.network_def.get("in_channels", len(plan.channels))
    return {
        "spatial_dims": (not plan.pictures or plan.spatial_dims == 2, "2, for the dataset's images are pictures"),
        "network_def": (taken == len(plan.channels), f"in_channels of {len(plan.channels)}, as the images have"),
        "spacing_mm": (len(plan.spacing_mm) == 3, "three numbers, x y z in RAS"),
        "patch_size": (
            len(plan.patch_size) == 3
            and all(plan.patch_size[axis] % multiple == 0 for axis, multiple in zip(in_plane, multiples, strict=True)),
            f"three numbers, x y z, multiples of {multiples} over the network's axes",
        ),
        "batch_size": (is_count(plan.batch_size), "1 or more"),
        "processes": (is_count(plan.processes), "1 or more"),
    }


def _length_claims(plan: Plan) -> dict[str, tuple[bool, str]]:
    claims = {"precision": (plan.precision in (None, *PRECISIONS), f"one of {', '.join(PRECISIONS)}")}
    if plan.iterations is None:
        free = {"epochs": plan.epochs, "validate_every": plan.validate_every}
        return claims | {key: (value is None or is_count(value), "1 or more") for key, value in free.items()}
    epochs, every = plan.epochs or 0, plan.validate_every or 0
    return claims | {
        "epochs": (1 <= epochs <= plan.iterations, f"1 to the {plan.iterations} iterations"),
        "validate_every": (1 <= every <= epochs, f"1 to the {epochs} epochs"),
    }


def _data_claims(plan: Plan, labels: dict[str, int]) -> dict[str, tuple[bool, str]]:
    return {
        "labels": (plan.labels == labels, f"the dataset's own, {labels}"),
        "loss": (plan.loss in LOSSES, f"one of {', '.join(LOSSES)}"),
        "recall_weight": _recall_weight_claim(plan),
        "largest_component": _largest_component_claim(plan, labels),
        "class_weights": (len(plan.class_weights) == len(labels) + 1, f"{len(labels) + 1} numbers"),
        "learning_rate": (_is_number(plan.learning_rate) and plan.learning_rate > 0, "a number above 0, such as 0.001"),
        "ema_momentum": (_is_number(plan.ema_momentum) and 0 < plan.ema_momentum <= 0.5, "a number, 0 to 0.5"),
    }


def _largest_component_claim(plan: Plan, labels: dict[str, int]) -> tuple[bool, str]:
    chosen = plan.largest_component
    holds = chosen in (None, (EVERYTHING,)) or (isinstance(chosen, tuple) and all(name in labels for name in chosen))
    return holds, f"a list of some of {', '.join(labels)}, or ['*'] for all of them together"


def _recall_weight_claim(plan: Plan) -> tuple[bool, str]:
    if plan.loss != "tversky_ce":
        return plan.recall_weight is None, "none: only `loss: tversky_ce` has one"
    return _is_number(plan.recall_weight) and 0 < (plan.recall_weight or 0) < 1, "a number above 0 and below 1"


def _is_number(value: Any) -> bool:
    """YAML reads `1e-3`, without a point, as text."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    """Returns whether the value is a whole number, 1 or more."""
    return isinstance(value, int) and value >= 1


def as_tuple(value: Any) -> Any:
    """Returns a list, and the lists in it, as tuples; anything else as it is."""
    return tuple(as_tuple(item) for item in value) if isinstance(value, list) else value


def is_triple(value: Any) -> bool:
    """Returns whether the value is a list of three numbers."""
    return isinstance(value, (list, tuple)) and len(value) == 3 and all(_is_number(one) for one in value)


def write_plan(path: Path, plan: Plan) -> None:
    """Writes the plan as commented YAML, the same bytes for the same plan."""
    heading = ("Derived by `python -m pipeline plan` (--explain says why); override any value in "
               "configs/<experiment>/bundle.yaml.")
    write_text(path, commented_yaml(heading, asdict(plan), COMMENTS))


def read_plan(path: Path) -> Plan:
    """Reads a plan that `write_plan` wrote.

    Raises:
        InputError: the file is missing, has keys that no plan has, or lacks one.
    """
    content = read_exactly(path, {item.name for item in fields(Plan)},
                           remedy="run `python -m pipeline plan --experiment NAME`")
    tuples = {key: as_tuple(content[key]) for key in TUPLES}
    return Plan(**{**content, **tuples})

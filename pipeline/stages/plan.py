"""index, configs -> work/<exp>/fingerprint.json and plan.yaml: what the training cases imply for the model."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.topology import batch_size_for, network_definition, plan_topology
from pipeline.imaging.intensities import robust_range
from pipeline.imaging.nifti import read_nifti
from pipeline.records.errors import InputError
from pipeline.records.files import write_json
from pipeline.records.folders import ExperimentFolders
from pipeline.records.index import Index, IndexedCase, read_index
from pipeline.records.plan import TUPLES, Plan, check_plan, write_plan
from pipeline.records.strict_yaml import read_yaml, refuse_unknown_keys

SHARPER_PERCENTILE = 25
ANISOTROPY = 3.0  # nnU-Net's threshold between the coarsest and the other axes
FOREGROUND_SAMPLES = 10_000  # voxels a case: enough for percentiles, the same weight for every case
CLIP_PERCENTILES = (0.5, 99.5)
ROTATION_RAD = 0.26  # 15 degrees


@dataclass(frozen=True)
class Fingerprint:
    """Typical geometry of the training cases in RAS axis order, and CT intensities inside the labels.

    `shapes` are voxels as scanned, `spacings_mm` millimetres; `label_voxels` are counts by label name, over all cases.
    `intensity_range` spans the robust ranges of all training scans; it and `foreground` are None unless the modality is
    CT, whose numbers alone have a unit.
    """

    cases: tuple[str, ...]
    shapes: tuple[tuple[int, int, int], ...]
    spacings_mm: tuple[tuple[float, float, float], ...]
    label_voxels: dict[str, int]
    intensity_range: tuple[float, float] | None
    foreground: dict[str, float] | None


def run(experiment: str) -> None:
    """Writes fingerprint and plan of one experiment."""
    folders = ExperimentFolders(experiment)
    index = read_index(folders.index)
    fingerprint = take_fingerprint(index)
    write_json(folders.fingerprint, asdict(fingerprint))
    path = folders.configs / "bundle.yaml"
    plan = make_plan(fingerprint, index, name=experiment, overrides=read_overrides(path))
    check_plan(plan, path, labels=index.labels)
    write_plan(folders.plan, plan)
    print(f"plan: patch {plan.patch_size} at {plan.spacing_mm} mm, batch {plan.batch_size}, "
          f"{plan.iterations} iterations, {plan.network_def['_target_']}")


def take_fingerprint(index: Index) -> Fingerprint:
    """Returns the fingerprint of the index's training cases."""
    cases = index.in_split("train")
    orders = [_ras_order(case.orientation) for case in cases]
    intensity_range, foreground = _ct_intensities(Path(index.root), cases) if index.modality == "CT" else (None, None)
    return Fingerprint(
        cases=tuple(case.case_id for case in cases),
        shapes=tuple(_reorder(case.shape, order) for case, order in zip(cases, orders, strict=True)),
        spacings_mm=tuple(_reorder(case.spacing_mm, order) for case, order in zip(cases, orders, strict=True)),
        label_voxels={name: sum(case.label_voxels[name] for case in cases) for name in index.labels},
        intensity_range=intensity_range,
        foreground=foreground,
    )


def read_overrides(path: Path) -> dict[str, Any]:
    """Reads `bundle.yaml`: any field of the plan, and `architecture`.

    Raises:
        InputError: a key is neither.
    """
    overrides = read_yaml(path)
    refuse_unknown_keys(set(overrides), {item.name for item in fields(Plan)} | {"architecture"}, path)
    return overrides


def make_plan(fingerprint: Fingerprint, index: Index, *, name: str, overrides: dict[str, Any]) -> Plan:
    """Returns the plan that the fingerprint implies; what `overrides` gives is taken and the rest derived from it.

    Args:
        fingerprint: of the training cases.
        index: their index.
        name: of the model.
        overrides: any field of the plan, and `architecture`.
    """
    chosen = dict(overrides)
    architecture = chosen.pop("architecture", "UNet")
    dims = chosen.setdefault("spatial_dims", 3)
    if dims not in (2, 3):
        raise InputError("bundle.yaml", found=f"spatial_dims {dims}", wanted="2 or 3", remedy="choose one",
                         reason="invalid-value")
    spacing = typical_spacing_mm(fingerprint)
    axis = chosen.setdefault("slice_axis", typical_slice_axis(fingerprint) if dims == 2 else None)
    spacing = tuple(-1.0 if i == axis else step for i, step in enumerate(spacing))  # type: ignore[assignment]
    spacing = tuple(chosen.setdefault("spacing_mm", spacing))
    in_plane = [i for i in range(3) if i != axis]
    shape = _shape_at(fingerprint, spacing)
    topology = plan_topology(tuple(shape[i] for i in in_plane), tuple(spacing[i] for i in in_plane),
                             architecture=architecture)
    planned = dict(zip(in_plane, topology.patch_size, strict=True))
    patch = tuple(chosen.setdefault("patch_size", tuple(planned.get(i, 1) for i in range(3))))
    labels = dict(sorted(index.labels.items(), key=lambda item: item[1]))
    defaults = {
        "model_name": name,
        "intensity": _intensity_scheme(fingerprint),
        "intensity_range": fingerprint.intensity_range,
        "modality": index.modality,
        "labels": labels,
        "codes": {},
        "network_def": {
            **network_definition(architecture, topology, spatial_dims=dims, out_channels=len(index.labels) + 1),
            "spatial_dims": "@spatial_dims",  # one fact, one place
        },
        "batch_size": batch_size_for(patch),
        "iterations": 3000,
        "epochs": 50,
        "validate_every": 5,
        "learning_rate": 0.002,
        "foreground_fraction": 0.75,
        "class_weights": class_weights(fingerprint, list(labels)),
        "rotation_rad": _rotation_rad(spacing),
        "seed": 0,
    }
    merged = {**defaults, **chosen}
    tuples = {key: tuple(merged[key]) for key in TUPLES if merged[key] is not None}
    return Plan(**{**merged, **tuples})


def typical_spacing_mm(fingerprint: Fingerprint) -> tuple[float, float, float]:
    """Returns the spacing of the sharper scans: the first quartile, axis by axis.

    The median would blur half of the scans, and with them what is a few voxels large; a finer grid costs time alone.
    A very coarse axis with few slices takes its 10th percentile (nnU-Net's rule).
    """
    spacings, shapes = np.array(fingerprint.spacings_mm), np.array(fingerprint.shapes)
    typical, sizes = np.percentile(spacings, SHARPER_PERCENTILE, axis=0), np.median(shapes, axis=0)
    coarsest = int(np.argmax(typical))
    others = [axis for axis in range(3) if axis != coarsest]
    is_anisotropic = typical[coarsest] > ANISOTROPY * typical[others].max()
    if is_anisotropic and 1 < sizes[coarsest] * ANISOTROPY < sizes[others].min():
        typical[coarsest] = max(np.percentile(spacings[:, coarsest], 10), typical[others].max())
    x, y, z = (round(float(step), 4) for step in typical)
    return x, y, z


def class_weights(fingerprint: Fingerprint, labels: list[str]) -> tuple[float, ...]:
    """Returns weights of background and labels with mean 1, inverse to the cube root of their shares of the voxels.

    The inverse share itself would let a label of one voxel in ten thousand drown all others.
    """
    voxels = float(np.prod(np.array(fingerprint.shapes, dtype=np.float64), axis=1).sum())
    counts = [fingerprint.label_voxels[name] for name in labels]
    shares = np.maximum(np.array([voxels - sum(counts), *counts]), 1.0) / voxels
    weights = shares ** (-1 / 3)
    return tuple(round(float(weight), 3) for weight in weights / weights.mean())


def typical_slice_axis(fingerprint: Fingerprint) -> int:
    """Returns the axis of 2D images that has one voxel, else the coarsest axis; among equals the last."""
    sizes = np.median(np.array(fingerprint.shapes), axis=0)
    spacing = typical_spacing_mm(fingerprint)
    return max(range(3), key=lambda axis: (sizes[axis] == 1, spacing[axis], axis))


def _shape_at(fingerprint: Fingerprint, spacing_mm: tuple[float, ...]) -> tuple[int, ...]:
    own, shapes = np.array(fingerprint.spacings_mm), np.array(fingerprint.shapes)
    target = np.where(np.array(spacing_mm) > 0, np.array(spacing_mm), own)
    return tuple(round(size) for size in np.median(shapes * own / target, axis=0))


def _intensity_scheme(fingerprint: Fingerprint) -> dict[str, Any]:
    return {"scheme": "z-score"} if fingerprint.foreground is None else {"scheme": "ct", **fingerprint.foreground}


def _rotation_rad(spacing_mm: tuple[float, ...]) -> tuple[float, float, float]:
    """Rotates in planes of similar spacing only: in voxels, any other rotation is a shear."""
    steps = [step for step in spacing_mm if step > 0]
    if len(steps) < 3:
        return ROTATION_RAD, ROTATION_RAD, ROTATION_RAD
    angles = []
    for axis in range(3):
        first, second = (steps[other] for other in range(3) if other != axis)
        angles.append(ROTATION_RAD if max(first, second) < 2 * min(first, second) else 0.0)
    return angles[0], angles[1], angles[2]


def _ct_intensities(root: Path, cases: tuple[IndexedCase, ...]) -> tuple[tuple[float, float], dict[str, float]]:
    """Returns the range of all scans and how intensities inside the labels are distributed; reads each scan once."""
    ranges, samples = [], []
    for case in cases:
        image = read_nifti(root / case.image).array
        ranges.append(robust_range(image))
        samples.append(_sample_foreground(image, read_nifti(root / case.label).array))
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    return (round(low, 3), round(high, 3)), _foreground_intensities(root, np.concatenate(samples))


def _foreground_intensities(root: Path, samples: NDArray[np.float64]) -> dict[str, float]:
    if not len(samples):
        raise InputError(root, found="no labelled voxel in any training case", wanted="labels to learn from",
                         remedy="check the label maps, or set `intensity` in bundle.yaml", reason="empty-labels")
    low, high = np.percentile(samples, CLIP_PERCENTILES)
    clipped = np.clip(samples, low, high)
    values = {"low": low, "high": high, "mean": clipped.mean(), "std": clipped.std()}
    return {name: round(float(value), 3) for name, value in values.items()}


def _sample_foreground(image: NDArray[np.float32], label: NDArray[np.float32]) -> NDArray[np.float64]:
    foreground = image[label > 0].astype(np.float64)
    step = max(1, len(foreground) // FOREGROUND_SAMPLES)
    return np.asarray(np.sort(foreground)[step // 2 :: step])


def _ras_order(orientation: str) -> tuple[int, ...]:
    """Returns, for each RAS axis, the scan's axis that runs along it, whichever way."""
    pairs = ("RL", "AP", "SI")
    return tuple(next(i for i, letter in enumerate(orientation) if letter in pair) for pair in pairs)


def _reorder(values: tuple[Any, ...], order: tuple[int, ...]) -> Any:
    return tuple(values[axis] for axis in order)

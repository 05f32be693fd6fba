"""index, configs -> work/<exp>/fingerprint.json and plan.yaml: what the training cases imply for the model."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.engine.fingerprint import Fingerprint, class_weights, take_fingerprint
from pipeline.engine.recipe import check_mirroring, decide_loss, decide_mirroring, decide_postprocessing
from pipeline.engine.topology import (
    ARCHITECTURES,
    WIDTH,
    batch_size_for,
    fitting_topology,
    memory_of_patch_gib,
    network_definition,
    why_network,
)
from pipeline.records.decisions import Decision, Decisions
from pipeline.records.errors import InputError
from pipeline.records.files import write_json
from pipeline.records.folders import ExperimentFolders
from pipeline.records.index import Index, read_index
from pipeline.records.plan import (
    LIBRARIES_GIB,
    TUPLES,
    Plan,
    as_tuple,
    budget_seconds,
    check_plan,
    is_count,
    is_triple,
    write_plan,
)
from pipeline.records.strict_yaml import read_yaml, refuse_unknown_keys

SHARPER_PERCENTILE = 25
ANISOTROPY = 3.0  # nnU-Net's threshold between the coarsest and the other axes
ROTATION_RAD = 0.26  # 15 degrees
# What bundle.yaml may set besides the plan's own values: they decide several of these at once.
CHOICES = ("preset", "architecture", "width")


@dataclass(frozen=True)
class Preset:
    """How long to train, and how many features the first level of a 2D and of a 3D network has."""

    budget: str
    width: dict[int, int]


# A wider network needs longer to pay: a quarter of an hour on two cores is enough for 24 features in 3D
# (docs/benchmarks.md); that four hours are for twice as many is not measured yet.
PRESETS = {
    "quick": Preset("5 min", WIDTH),
    "standard": Preset("30 min", {2: WIDTH[2], 3: 24}),
    "thorough": Preset("4 h", {2: 2 * WIDTH[2], 3: 48}),
}


def run(experiment: str, *, explain: bool = False) -> None:
    """Writes fingerprint and plan of one experiment; with `explain` prints why each value is so, and writes nothing."""
    folders = ExperimentFolders(experiment)
    index = read_index(folders.index)
    path = folders.configs / "bundle.yaml"
    overrides = read_overrides(path)
    fingerprint = take_fingerprint(index)
    decisions = decide(fingerprint, index, name=experiment, overrides=overrides)
    plan = plan_of(decisions)
    check_plan(plan, path, labels=index.labels)
    check_mirroring(plan, index, path)
    if explain:
        print("\n".join(decisions.lines()))
        return
    write_json(folders.fingerprint, asdict(fingerprint))
    write_plan(folders.plan, plan)
    length = f"{plan.iterations} iterations" if plan.budget is None else f"a budget of {plan.budget}"
    print(f"plan: patch {plan.patch_size} at {plan.spacing_mm} mm, batch {plan.batch_size}, {length}, "
          f"{plan.network_def['_target_']}")


def read_overrides(path: Path) -> dict[str, Any]:
    """Reads `bundle.yaml`: any field of the plan, and those of `CHOICES`.

    Raises:
        InputError: a key is neither, a choice does not exist, or both a budget and iterations are given.
    """
    overrides = read_yaml(path)
    refuse_unknown_keys(set(overrides), {item.name for item in fields(Plan)} | set(CHOICES), path)
    if "budget" in overrides and "iterations" in overrides:
        both = f"both `budget: {overrides['budget']}` and `iterations: {overrides['iterations']}`"
        raise InputError(path, found=both, wanted="one of them: how long it may train, or how many steps",
                         remedy="remove the other", reason="two-lengths")
    if "preset" in overrides and "iterations" in overrides:
        both = f"both `preset: {overrides['preset']}` and `iterations: {overrides['iterations']}`"
        raise InputError(path, found=both, wanted="one of them: a preset is a budget and the width that pays in it",
                         remedy="remove one; `width` can be set by itself", reason="two-lengths")
    if "budget" in overrides:
        budget_seconds(overrides["budget"], path)
    claims: dict[str, tuple[Callable[[Any], bool], str]] = {
        "spatial_dims": (lambda value: value in (2, 3), "2 or 3"),
        "preset": (lambda value: value in PRESETS, f"one of {', '.join(PRESETS)}"),
        "architecture": (lambda value: value in ARCHITECTURES, f"one of {', '.join(ARCHITECTURES)}"),
        "width": (is_count, "a whole number, 1 or more"),
        **dict.fromkeys(("spacing_mm", "patch_size", "rotation_rad"), (is_triple, "a list of three numbers, x y z")),
        "iterations": (is_count, "a whole number, 1 or more"),
        "memory_gib": (lambda value: isinstance(value, (int, float)) and value > LIBRARIES_GIB,
                       f"more than {LIBRARIES_GIB:g}, which the libraries alone take"),
    }
    for key, (holds, wanted) in claims.items():
        if key in overrides and not holds(overrides[key]):
            raise InputError(path, found=f"`{key}: {overrides[key]}`", wanted=wanted,
                             remedy="correct it, or remove the line for the default", reason="invalid-value")
    return overrides


def make_plan(fingerprint: Fingerprint, index: Index, *, name: str, overrides: dict[str, Any]) -> Plan:
    """Returns the plan that `decide` comes to."""
    return plan_of(decide(fingerprint, index, name=name, overrides=overrides))


def plan_of(decisions: Decisions) -> Plan:
    """Returns the decisions that are values of a plan as one."""
    return Plan(**{item.name: decisions.made[item.name].value for item in fields(Plan)})


def decide(fingerprint: Fingerprint, index: Index, *, name: str, overrides: dict[str, Any]) -> Decisions:
    """Returns what the fingerprint implies and why; what `overrides` gives is taken and the rest derived from it.

    Args:
        fingerprint: of the training cases.
        index: their index.
        name: of the model.
        overrides: as `read_overrides` returns them.
    """
    given = {key: as_tuple(value) if key in TUPLES else value for key, value in overrides.items()}
    decisions = Decisions(given, "bundle.yaml")
    preset = decisions.make("preset", "standard", "the default")
    _decide_length(decisions, preset, f", for each of {index.folds} folds" if index.folds else "")
    _decide_grid(decisions, fingerprint, index)
    _decide_network(decisions, fingerprint, preset=preset, classes=len(index.labels) + 1)
    labels = dict(sorted(index.labels.items(), key=lambda item: item[1]))
    _decide_meaning(decisions, fingerprint, index, name=name, labels=labels)
    _decide_recipe(decisions, fingerprint, labels=list(labels))
    decide_mirroring(decisions, index)
    decide_postprocessing(decisions)
    return decisions


def _decide_length(decisions: Decisions, preset: str, whom: str) -> None:
    if "iterations" in decisions.given:
        decisions.make("budget", None, "`iterations` are set")
        iterations = decisions.make("iterations", None, "")
        epochs = decisions.make("epochs", min(50, iterations), "50 points make a curve")
        decisions.make("validate_every", min(5, epochs), "ten validations show where it goes, at little cost")
        decisions.make("precision", "float32", "`iterations` are set: nothing is timed, and float32 runs everywhere")
        return
    decisions.make("budget", PRESETS[preset].budget, f"preset {preset}{whom}")
    decisions.make("iterations", None, f"the schedule stage counts how many the budget holds on this device{whom}")
    for key in ("epochs", "validate_every"):
        decisions.make(key, None, "the schedule stage, from the iterations")
    decisions.make("precision", None, "the schedule stage times what the device offers and is safe")


def _decide_grid(decisions: Decisions, fingerprint: Fingerprint, index: Index) -> None:
    decisions.make("channels", index.channels, "the dataset's")
    flat = decisions.make("pictures", index.are_pictures, "the dataset's")
    dims = decisions.make("spatial_dims", *((2, "the images are pictures") if flat else (3, "the default: volumes")))
    volumes = Decision(None, "a 3D network takes whole volumes")
    axis = decisions.take("slice_axis", typical_slice_axis(fingerprint) if dims == 2 else volumes)
    typical = typical_spacing_mm(fingerprint)
    if flat and not index.has_spacing:
        typical = Decision((-1.0,) * 3, "nobody knows how large the pixels of all pictures are")
    why = typical.why if axis is None else f"{typical.why}; across slices each scan keeps its own"
    decisions.make("spacing_mm", tuple(-1.0 if i == axis else step for i, step in enumerate(typical.value)), why)


def _decide_network(decisions: Decisions, fingerprint: Fingerprint, *, preset: str, classes: int) -> None:
    made = decisions.made
    dims, axis, spacing = (made[key].value for key in ("spatial_dims", "slice_axis", "spacing_mm"))
    architecture = decisions.make("architecture", "UNet", "the default: the most accuracy for its time on two cores")
    if decisions.made["budget"].value is None:
        width = decisions.make("width", WIDTH[dims], f"`iterations` are set: the narrowest, in {dims}D")
    else:
        width = decisions.make("width", PRESETS[preset].width[dims], f"preset {preset}, in {dims}D")
    memory_gib = decisions.make("memory_gib", 8.0, "a third of 24 GiB: the cases, validation and the system need room")
    in_plane = [i for i in range(3) if i != axis]
    shape = _shape_at(fingerprint, spacing)
    steps = np.where(np.array(spacing) > 0, spacing, np.median(fingerprint.spacings_mm, axis=0)).tolist()
    topology = fitting_topology(
        tuple(shape[i] for i in in_plane), tuple(steps[i] for i in in_plane), architecture=architecture, width=width,
        classes=classes, memory_gib=memory_gib - LIBRARIES_GIB,
    )
    planned = dict(zip(in_plane, topology.patch_size, strict=True))
    patch = decisions.make("patch_size", tuple(planned.get(i, 1) for i in range(3)), topology.why_patch)
    definition = network_definition(architecture, topology, spatial_dims=dims, out_channels=classes, width=width,
                                    in_channels=len(made["channels"].value))
    # One fact, one place.
    decisions.make("network_def", {**definition, "spatial_dims": "@spatial_dims"}, why_network(architecture, topology))
    patch_gib = memory_of_patch_gib(architecture, topology, patch_size=patch, width=width, out_channels=classes)
    decisions.take("batch_size", batch_size_for(patch, patch_gib=patch_gib, memory_gib=memory_gib - LIBRARIES_GIB))
    decisions.make("processes", 1, "the default; more GPUs than one are used where this says so")


def _decide_meaning(
    decisions: Decisions, fingerprint: Fingerprint, index: Index, *, name: str, labels: dict[str, int]
) -> None:
    decisions.make("model_name", name, "the experiment's name")
    foreground, count = fingerprint.foreground, len(fingerprint.cases)
    if foreground is None:
        why = f"{index.modality} intensities have no unit{fingerprint.means}"
        decisions.make("intensity", {"scheme": "z-score"}, why)
    else:
        decisions.make("intensity", {"scheme": "ct", **foreground},
                       f"CT: percentiles 0.5 and 99.5, mean and deviation inside the labels of {count} training cases")
    decisions.make("intensity_range", fingerprint.intensity_range,
                   f"the robust range of {count} training cases" if foreground else "only CT intensities have a unit")
    decisions.make("modality", index.modality, "the dataset's")
    decisions.make("labels", labels, "the dataset's")
    decisions.make("codes", {}, "DICOM outputs look the names up")


def _decide_recipe(decisions: Decisions, fingerprint: Fingerprint, *, labels: list[str]) -> None:
    decisions.make("learning_rate", 0.002, "the recipe's, for any data")
    decisions.make("ema_momentum", 0.002, "the recipe's: the average spans about the last 500 steps of a long training")
    decide_loss(decisions)
    decisions.make("foreground_fraction", 0.75, "the recipe's: rare labels are seen as often as large ones")
    decisions.take("class_weights", class_weights(fingerprint, labels))
    decisions.take("rotation_rad", _rotation_rad(decisions.made["spacing_mm"].value))
    decisions.make("seed", 0, "any number will do")


def typical_spacing_mm(fingerprint: Fingerprint) -> Decision:
    """Returns the spacing of the sharper scans: the first quartile, axis by axis.

    The median would blur half of the scans, and with them what is a few voxels large; a finer grid costs time alone.
    A very coarse axis with few slices takes its 10th percentile (nnU-Net's rule).
    """
    spacings, shapes = np.array(fingerprint.spacings_mm), np.array(fingerprint.shapes)
    typical, sizes = np.percentile(spacings, SHARPER_PERCENTILE, axis=0), np.median(shapes, axis=0)
    ends = " to ".join(str(_rounded(end)) for end in (spacings.min(axis=0), spacings.max(axis=0)))
    why = f"the sharper quarter's limit, axis by axis, of {len(spacings)} training cases with {ends} mm"
    coarsest = int(np.argmax(typical))
    others = [axis for axis in range(3) if axis != coarsest]
    is_anisotropic = typical[coarsest] > ANISOTROPY * typical[others].max()
    if is_anisotropic and 1 < sizes[coarsest] * ANISOTROPY < sizes[others].min():
        typical[coarsest] = max(np.percentile(spacings[:, coarsest], 10), typical[others].max())
        why += f"; {'xyz'[coarsest]}, over {ANISOTROPY:g}x coarser and of few slices, at its 10th percentile"
    return Decision(_rounded(typical), why)


def typical_slice_axis(fingerprint: Fingerprint) -> Decision:
    """Returns the axis of 2D images that has one voxel, else the coarsest axis; among equals the last."""
    sizes, spacing = np.median(np.array(fingerprint.shapes), axis=0), typical_spacing_mm(fingerprint).value
    axis = max(range(3), key=lambda axis: (sizes[axis] == 1, spacing[axis], axis))
    why = "the axis of one voxel" if sizes[axis] == 1 else f"no axis is coarser than its {spacing[axis]} mm"
    return Decision(axis, why)


def _shape_at(fingerprint: Fingerprint, spacing_mm: tuple[float, ...]) -> tuple[int, ...]:
    own, shapes = np.array(fingerprint.spacings_mm), np.array(fingerprint.shapes)
    target = np.where(np.array(spacing_mm) > 0, np.array(spacing_mm), own)
    return tuple(round(size) for size in np.median(shapes * own / target, axis=0))


def _rotation_rad(spacing_mm: tuple[float, ...]) -> Decision:
    """Rotates in planes of similar spacing only: in voxels, any other rotation is a shear."""
    steps = [step for step in spacing_mm if step > 0]
    if len(steps) < 3:
        return Decision((ROTATION_RAD,) * 3, "15 degrees in the plane")
    angles = []
    for axis in range(3):
        first, second = (steps[other] for other in range(3) if other != axis)
        angles.append(ROTATION_RAD if max(first, second) < 2 * min(first, second) else 0.0)
    return Decision(tuple(angles), "15 degrees about each axis across which both spacings are within a factor of 2")


def _rounded(spacing_mm: Any) -> tuple[float, ...]:
    return tuple(round(float(step), 4) for step in spacing_mm)

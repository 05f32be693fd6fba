"""The plan's decisions about how to train that the sizes and spacings of the cases have no say in."""

from pathlib import Path

from pipeline.records.commented_yaml import plain
from pipeline.records.decisions import Decisions
from pipeline.records.errors import InputError
from pipeline.records.index import Index
from pipeline.records.plan import Plan
from pipeline.records.sides import LEFT_RIGHT, WITHOUT_SIDES

IN_PICTURE = (0, 1)  # the axes of a picture, and of a volume's slices across z


def decide_loss(decisions: Decisions) -> None:
    """Decides the loss and, of the one that has it, the weight of recall."""
    loss = decisions.make("loss", "dice_ce", "the recipe's: the overlap that is scored, and a gradient for every voxel")
    if loss == "tversky_ce":
        decisions.make("recall_weight", 0.7, "the best of Salehi et al. 2017, doi:10.1007/978-3-319-67389-9_44")
    else:
        decisions.make("recall_weight", None, "only `loss: tversky_ce` has one")


def decide_postprocessing(decisions: Decisions) -> None:
    """Leaves it to the end of training, which labels are cleared of all but their largest component."""
    decisions.make("largest_component", None, "the end of training, from the validation cases")


def decide_mirroring(decisions: Decisions, index: Index) -> None:
    """Decides along which axes training mirrors, and which label values exchange where left and right do."""
    pairs, slice_axis = index.left_right, decisions.made["slice_axis"].value
    axes: tuple[int, ...] = ()
    if pairs is None and index.modality in WITHOUT_SIDES:
        axes = tuple(axis for axis in IN_PICTURE if axis != slice_axis)
        why = "microscopy: a slide lies any way round"
    elif pairs is None:
        why = "data.yaml declares no `left_right`: the mirror image of a patient is another patient"
    elif slice_axis == LEFT_RIGHT:
        why = "slices across left and right do not show them"
    else:
        axes, why = (LEFT_RIGHT,), "`left_right` in data.yaml"
    decisions.make("mirror_axes", axes, why)
    swaps = tuple((index.labels[first], index.labels[second]) for first, second in pairs or ())
    decisions.make("mirror_swaps", swaps, "`left_right` in data.yaml" if swaps else "it names no labels of one side")


def check_mirroring(plan: Plan, index: Index, where: Path) -> None:
    """Refuses to mirror what a mirror would make wrong.

    Raises:
        InputError: ``invalid-plan``, or ``left-and-right``: left would become right and nobody said that it may.
    """
    in_plane = [axis for axis in range(3) if axis != plan.slice_axis]
    axes, swaps = plan.mirror_axes, tuple((index.labels[a], index.labels[b]) for a, b in index.left_right or ())
    are_axes = isinstance(axes, tuple) and len(set(axes)) == len(axes) and all(
        not isinstance(axis, bool) and axis in in_plane for axis in axes)
    if not are_axes:
        raise InputError(where, found=f"`mirror_axes: {plain(axes)}`", wanted=f"some of the axes {in_plane}",
                         remedy="correct it, or remove the line to have it planned", reason="invalid-plan")
    if plan.mirror_swaps != swaps:
        raise InputError(where, found=f"`mirror_swaps: {plain(plan.mirror_swaps)}`", reason="invalid-plan",
                         wanted=f"{plain(swaps)}, what `left_right` in data.yaml declares",
                         remedy="remove the line, and declare the pairs in data.yaml")
    if LEFT_RIGHT in axes and index.left_right is None and index.modality not in WITHOUT_SIDES:
        raise InputError(where, found=f"`mirror_axes: {plain(axes)}`, of which 0 makes the patient's left the right",
                         wanted="`left_right` in data.yaml, which says that it may", reason="left-and-right",
                         remedy="declare there `left_right: symmetric`, or the pairs of labels that exchange; "
                                "or remove the axis")

"""Left and right: which labels exchange when a case is mirrored from one side of the patient to the other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.records.errors import InputError

LEFT_RIGHT = 0  # the axis of a volume in RAS
# Modalities whose pictures have no side of a patient: general and slide microscopy (DICOM codes), and the plain word.
WITHOUT_SIDES = ("GM", "SM", "microscopy")
Pairs = tuple[tuple[str, str], ...]


def declared_pairs(left_right: Any, labels: Mapping[str, int], *, where: Path) -> Pairs | None:
    """Returns the pairs of labels that exchange, none for ``symmetric``; None where nothing is declared.

    Args:
        left_right: as in `data.yaml`: None, ``symmetric``, or pairs of label names.
        labels: the dataset's.
        where: the path of `data.yaml`, for messages.

    Raises:
        InputError: ``invalid-value``: it is neither, or a label does not exist or is named twice.
    """
    if left_right is None:
        return None
    if left_right == "symmetric":
        return ()
    is_paired = isinstance(left_right, list) and left_right and all(
        isinstance(pair, list) and len(pair) == 2 for pair in left_right)
    names = [name for pair in left_right for name in pair] if is_paired else []
    if not is_paired or any(name not in labels for name in names) or len(set(names)) < len(names):
        raise InputError(where, found=f"`left_right: {left_right}`", reason="invalid-value",
                         wanted=f"`symmetric`, or pairs among {', '.join(labels)}, each label once",
                         remedy="write for instance [[kidney_left, kidney_right]], or remove the line")
    return tuple((first, second) for first, second in left_right)


def exchanged_classes(swaps: Sequence[Sequence[int]], labels: Mapping[str, int]) -> tuple[int, ...]:
    """Returns, for each class of a network, the class that it becomes on the other side; background is 0.

    Args:
        swaps: pairs of label values.
        labels: names and values; class k is the k-th smallest value.

    >>> exchanged_classes([[2, 7]], {"left": 2, "right": 7, "spine": 4})
    (0, 3, 2, 1)
    """
    values = [0, *sorted(labels.values())]
    becomes = {first: second for pair in swaps for first, second in (pair, pair[::-1])}
    return tuple(values.index(becomes.get(value, value)) for value in values)

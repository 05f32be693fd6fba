"""What `left_right` in data.yaml may be, and which class a mirror makes of which."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.records.errors import InputError
from pipeline.records.sides import declared_pairs, exchanged_classes

LABELS = {"kidney_left": 1, "kidney_right": 2, "spine": 3}
WHERE = Path("configs/e/data.yaml")


@pytest.mark.parametrize(("left_right", "pairs"), [
    (None, None), ("symmetric", ()), ([["kidney_left", "kidney_right"]], (("kidney_left", "kidney_right"),)),
])
def test_nothing_symmetric_or_pairs(left_right: Any, pairs: Any) -> None:
    assert declared_pairs(left_right, LABELS, where=WHERE) == pairs


@pytest.mark.parametrize("left_right", [
    "yes", True, [], ["kidney_left", "kidney_right"], [["kidney_left"]], [["kidney_left", "lung_right"]],
    [["kidney_left", "kidney_left"]], [["kidney_left", "kidney_right"], ["spine", "kidney_left"]], {"a": "b"},
])
def test_anything_else_is_one_line(left_right: Any) -> None:
    with pytest.raises(InputError, match=r"`left_right: .*`symmetric`, or pairs among kidney_left, .* once") as caught:
        declared_pairs(left_right, LABELS, where=WHERE)
    assert "\n" not in str(caught.value)


def test_classes_go_by_rank_and_background_stays() -> None:
    assert exchanged_classes([], LABELS) == (0, 1, 2, 3)
    assert exchanged_classes([[1, 2]], LABELS) == (0, 2, 1, 3)
    assert exchanged_classes([[30, 10], [20, 40]], {"d": 40, "a": 10, "c": 30, "b": 20}) == (0, 3, 4, 1, 2)

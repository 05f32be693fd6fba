"""Which axes are mirrored: only what `left_right` in data.yaml, or microscopy, allows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.fingerprint import Fingerprint
from pipeline.engine.recipe import check_mirroring
from pipeline.records.errors import InputError
from pipeline.records.index import Index
from pipeline.records.plan import Plan, read_plan, write_plan
from pipeline.stages.plan import make_plan

SILENT = Index("d", ".", "MR", "CC0", {"left": 4, "right": 7, "spine": 5}, ())
SYMMETRIC = replace(SILENT, left_right=())
PAIRED = replace(SILENT, left_right=(("left", "right"),))
WHERE = Path("bundle.yaml")


def plan_for(index: Index, **overrides: Any) -> Plan:
    fingerprint = Fingerprint(("a",), ((32, 32, 32),), ((1.0, 1.0, 1.0),), dict.fromkeys(index.labels, 99), None, None)
    return make_plan(fingerprint, index, name="d", overrides={"iterations": 9, **overrides})


@pytest.mark.parametrize(("index", "overrides", "axes", "swaps"), [
    (SILENT, {}, (), ()),
    (SYMMETRIC, {}, (0,), ()),
    (PAIRED, {}, (0,), ((4, 7),)),
    (PAIRED, {"spatial_dims": 2}, (0,), ((4, 7),)),
    (PAIRED, {"spatial_dims": 2, "slice_axis": 0}, (), ((4, 7),)),  # a sagittal slice shows one side
    (SILENT, {"mirror_axes": [1, 2]}, (1, 2), ()),
    (SYMMETRIC, {"mirror_axes": [0, 1]}, (0, 1), ()),
    (PAIRED, {"mirror_axes": []}, (), ((4, 7),)),
    (replace(SILENT, modality="SM"), {}, (0, 1), ()),
    (replace(SILENT, modality="GM"), {"spatial_dims": 2, "slice_axis": 1}, (0,), ()),
    (replace(SILENT, modality="GM"), {"mirror_axes": []}, (), ()),
    (replace(SILENT, modality="microscopy"), {}, (0, 1), ()),  # as configs/nuclei_2d says it
    (replace(SILENT, modality="SM"), {"mirror_axes": [0, 1]}, (0, 1), ()),
])
def test_axes_that_are_mirrored(
    index: Index, overrides: dict[str, Any], axes: tuple[int, ...], swaps: tuple[tuple[int, int], ...], tmp_path: Path
) -> None:
    plan = plan_for(index, **overrides)
    check_mirroring(plan, index, WHERE)
    assert (plan.mirror_axes, plan.mirror_swaps) == (axes, swaps)
    write_plan(tmp_path / "plan.yaml", plan)
    assert read_plan(tmp_path / "plan.yaml") == plan


@pytest.mark.parametrize(("index", "overrides", "reason"), [
    (SILENT, {"mirror_axes": [0]}, "left-and-right"),
    (SILENT, {"mirror_axes": [1, 0]}, "left-and-right"),
    (SILENT, {"mirror_axes": [3]}, "invalid-plan"),
    (SILENT, {"mirror_axes": [1, 1]}, "invalid-plan"),
    (SILENT, {"mirror_axes": 1}, "invalid-plan"),
    (SILENT, {"mirror_axes": True}, "invalid-plan"),
    (SILENT, {"mirror_axes": [2], "spatial_dims": 2}, "invalid-plan"),
    (PAIRED, {"mirror_swaps": []}, "invalid-plan"),
    (SYMMETRIC, {"mirror_swaps": [[4, 7]]}, "invalid-plan"),
])
def test_what_a_mirror_would_make_wrong_is_refused(index: Index, overrides: dict[str, Any], reason: str) -> None:
    plan = plan_for(index, **overrides)
    with pytest.raises(InputError, match=r"^bundle\.yaml: `mirror_(axes|swaps): .*`.*; expected .*; ") as caught:
        check_mirroring(plan, index, WHERE)
    assert caught.value.reason == reason


def test_left_and_right_say_what_to_declare() -> None:
    with pytest.raises(InputError, match="declare there `left_right: symmetric`, or the pairs of labels"):
        check_mirroring(plan_for(SILENT, mirror_axes=[0]), SILENT, WHERE)

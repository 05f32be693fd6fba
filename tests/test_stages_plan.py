from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.imaging.nifti import write_nifti
from pipeline.records.errors import InputError
from pipeline.records.index import Index, IndexedCase
from pipeline.records.plan import check_plan, read_plan, write_plan
from pipeline.stages.plan import (
    Fingerprint,
    class_weights,
    make_plan,
    read_overrides,
    take_fingerprint,
    typical_slice_axis,
    typical_spacing_mm,
)

CASE = IndexedCase(
    "a", "a", "train", "a.nii.gz", "l.nii.gz", (10, 20, 30), (1.0, 2.0, 3.0), "RAS", {"one": 9, "two": 0}, "", ""
)
INDEX = Index("d", ".", "MR", "CC0", {"one": 1, "two": 2}, (CASE,))


def fingerprint_of(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Fingerprint:
    return Fingerprint(("a",), (shape,), (spacing,), {"one": 100, "two": 10}, None, None)


def test_geometry_is_reordered_to_ras_axes() -> None:
    # Stored as superior-inferior first, then left-right, then front-back.
    index = replace(INDEX, cases=(replace(CASE, orientation="SLP"),))
    fingerprint = take_fingerprint(index)
    assert fingerprint.shapes == ((20, 30, 10),)
    assert fingerprint.spacings_mm == ((2.0, 3.0, 1.0),)


def test_only_training_cases_count() -> None:
    other = replace(CASE, case_id="b", split="test", shape=(99, 99, 99))
    assert take_fingerprint(replace(INDEX, cases=(CASE, other))).shapes == ((10, 20, 30),)


def test_ct_statistics_are_of_voxels_inside_labels(tmp_path: Path) -> None:
    image = np.full((10, 10, 10), -1000, dtype=np.int16)
    image[2:6] = np.arange(400).reshape(4, 10, 10)
    label = np.zeros_like(image, dtype=np.uint8)
    label[2:6] = 1
    for name, array in (("a.nii.gz", image), ("l.nii.gz", label)):
        write_nifti(tmp_path / name, array, affine=np.eye(4))
    fingerprint = take_fingerprint(replace(INDEX, root=str(tmp_path), modality="CT"))
    foreground = fingerprint.foreground
    assert foreground is not None
    # Of the 1000 voxels the lowest 600 are air and the highest five 395 to 399: percentile 99.5 lies between two.
    assert fingerprint.intensity_range == pytest.approx((-1000, 394.005))
    # 0.5 and 99.5 percent of 0..399 by linear interpolation: 0.005 * 399 and 0.995 * 399.
    assert foreground["low"] == pytest.approx(1.995)
    assert foreground["high"] == pytest.approx(397.005)
    assert foreground["mean"] == pytest.approx(199.5)


def test_spacing_is_the_first_quartile() -> None:
    spacings = ((1, 1, 1), (1, 1, 2), (1, 1, 3), (1, 1, 3), (1, 1, 3))
    fingerprint = Fingerprint(("a",) * 5, ((50, 50, 50),) * 5, spacings, {}, None, None)
    assert typical_spacing_mm(fingerprint) == (1.0, 1.0, 2.0)


def test_class_weights_are_inverse_to_the_cube_root_of_the_share() -> None:
    # Of 1000 voxels 8 and 1 are labelled: cube roots of the shares are 0.997, 0.2 and 0.1; inverse 1.003, 5, 10.
    fingerprint = Fingerprint(("a",), ((10, 10, 10),), ((1, 1, 1),), {"one": 8, "two": 1}, None, None)
    assert class_weights(fingerprint, ["one", "two"]) == pytest.approx((0.188, 0.938, 1.875), abs=1e-3)


def test_a_very_coarse_axis_takes_its_tenth_percentile() -> None:
    spacings = tuple((1.0, 1.0, float(step)) for step in range(4, 15))  # first quartile 6.5, 10th percentile 5
    fingerprint = Fingerprint(("a",) * 11, ((200, 200, 20),) * 11, spacings, {}, None, None)
    assert typical_spacing_mm(fingerprint) == (1.0, 1.0, 5.0)


@pytest.mark.parametrize(
    ("shape", "spacing", "axis"),
    [((160, 160, 1), (2.0, 2.0, 1.0), 2), ((50, 60, 20), (1.0, 5.0, 1.0), 1), ((50, 60, 50), (1.0, 1.0, 1.0), 2)],
)
def test_slices_run_along_the_single_else_the_coarsest_axis(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], axis: int
) -> None:
    assert typical_slice_axis(fingerprint_of(shape, spacing)) == axis


def test_a_2d_plan_keeps_the_spacing_across_slices() -> None:
    plan = make_plan(fingerprint_of((48, 64, 20), (1.0, 1.0, 4.0)), INDEX, name="d_3d", overrides={"spatial_dims": 2})
    assert plan.slice_axis == 2
    assert plan.spacing_mm == (1.0, 1.0, -1.0)
    assert plan.patch_size == (48, 64, 1)
    assert plan.spatial_dims == 2
    assert plan.network_def["out_channels"] == 3  # background and two labels


def test_what_is_derived_follows_what_is_overridden() -> None:
    fingerprint = fingerprint_of((64, 64, 64), (1.0, 1.0, 1.0))
    plan = make_plan(fingerprint, INDEX, name="d_3d", overrides={"spacing_mm": [2.0, 2.0, 2.0], "iterations": 7})
    assert plan.patch_size == (32, 32, 32)  # 64 mm at 2 mm
    assert plan.iterations == 7
    assert (plan.model_name, plan.codes, plan.intensity_range) == ("d_3d", {}, None)


def test_anisotropic_volumes_rotate_in_the_fine_plane_only() -> None:
    plan = make_plan(fingerprint_of((64, 64, 20), (1.0, 1.0, 4.0)), INDEX, name="d_3d", overrides={})
    assert plan.rotation_rad == (0.0, 0.0, 0.26)


def test_a_plan_survives_its_file_and_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    plan = make_plan(fingerprint_of((64, 64, 20), (1.0, 1.0, 4.0)), INDEX, name="d_3d", overrides={})
    write_plan(tmp_path / "a.yaml", plan)
    write_plan(tmp_path / "b.yaml", plan)
    assert read_plan(tmp_path / "a.yaml") == plan
    assert (tmp_path / "a.yaml").read_bytes() == (tmp_path / "b.yaml").read_bytes()


@pytest.mark.parametrize("overrides", [
    {"patch_size": [41, 56, 40]}, {"patch_size": [64, 64]}, {"spacing_mm": [1.0, 1.0]}, {"labels": {"one": 1}},
    {"class_weights": [1.0, 1.0]}, {"epochs": 0}, {"validate_every": 99}, {"iterations": 10},
])
def test_an_override_that_does_not_fit_is_one_line(overrides: dict[str, object]) -> None:
    plan = make_plan(fingerprint_of((64, 64, 64), (1.0, 1.0, 1.0)), INDEX, name="d_3d", overrides={})
    tuples = {key: tuple(value) if isinstance(value, list) else value for key, value in overrides.items()}
    check_plan(plan, Path("bundle.yaml"), labels=INDEX.labels)
    with pytest.raises(InputError, match=r"^bundle\.yaml: `\w+: .*`; expected .*; correct it") as caught:
        check_plan(replace(plan, **tuples), Path("bundle.yaml"), labels=INDEX.labels)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_an_unknown_override_names_the_nearest_key(tmp_path: Path) -> None:
    path = tmp_path / "bundle.yaml"
    path.write_text("iteratons: 5\n")
    with pytest.raises(InputError, match=r"bundle\.yaml: unknown key `iteratons`; .*did you mean `iterations`\?"):
        read_overrides(path)


def test_spatial_dims_other_than_2_and_3_are_refused() -> None:
    with pytest.raises(InputError, match="spatial_dims 4; expected 2 or 3"):
        make_plan(fingerprint_of((64, 64, 20), (1.0, 1.0, 4.0)), INDEX, name="d_3d", overrides={"spatial_dims": 4})

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pipeline.engine.fingerprint import Fingerprint
from pipeline.records.errors import InputError
from pipeline.records.index import Index, IndexedCase, write_index
from pipeline.records.plan import budget_seconds, check_plan, read_plan, write_plan
from pipeline.stages.plan import (
    class_weights,
    decide,
    make_plan,
    read_overrides,
    run,
    typical_slice_axis,
    typical_spacing_mm,
)

INDEX = Index("d", ".", "MR", "CC0", {"one": 1, "two": 2}, ())
RGB = ("red", "green", "blue")


def fingerprint_of(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Fingerprint:
    return Fingerprint(("a",), (shape,), (spacing,), {"one": 100, "two": 10}, None, None)


def test_spacing_is_the_first_quartile() -> None:
    spacings = ((1, 1, 1), (1, 1, 2), (1, 1, 3), (1, 1, 3), (1, 1, 3))
    fingerprint = Fingerprint(("a",) * 5, ((50, 50, 50),) * 5, spacings, {}, None, None)
    assert typical_spacing_mm(fingerprint).value == (1.0, 1.0, 2.0)


def test_classes_weigh_the_same_where_no_label_is_rare() -> None:
    # 10 of 1000 voxels are the 1 % that is not rare yet.
    fingerprint = Fingerprint(("a",), ((10, 10, 10),), ((1, 1, 1),), {"one": 80, "two": 10}, None, None)
    assert class_weights(fingerprint, ["one", "two"]).value == (1.0, 1.0, 1.0)


def test_class_weights_are_inverse_to_the_cube_root_of_the_share_where_a_label_is_rare() -> None:
    # Of 1000 voxels 8 and 1 are labelled: cube roots of the shares are 0.997, 0.2 and 0.1; inverse 1.003, 5, 10.
    fingerprint = Fingerprint(("a",), ((10, 10, 10),), ((1, 1, 1),), {"one": 8, "two": 1}, None, None)
    assert class_weights(fingerprint, ["one", "two"]).value == pytest.approx((0.188, 0.938, 1.875), abs=1e-3)


def test_a_very_coarse_axis_takes_its_tenth_percentile() -> None:
    spacings = tuple((1.0, 1.0, float(step)) for step in range(4, 15))  # first quartile 6.5, 10th percentile 5
    fingerprint = Fingerprint(("a",) * 11, ((200, 200, 20),) * 11, spacings, {}, None, None)
    assert typical_spacing_mm(fingerprint).value == (1.0, 1.0, 5.0)


@pytest.mark.parametrize(
    ("shape", "spacing", "axis"),
    [((160, 160, 1), (2.0, 2.0, 1.0), 2), ((50, 60, 20), (1.0, 5.0, 1.0), 1), ((50, 60, 50), (1.0, 1.0, 1.0), 2)],
)
def test_slices_run_along_the_single_else_the_coarsest_axis(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], axis: int
) -> None:
    assert typical_slice_axis(fingerprint_of(shape, spacing)).value == axis


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
    {"class_weights": [1.0, 1.0]}, {"epochs": 0}, {"validate_every": 99}, {"iterations": 10}, {"batch_size": 0},
    {"loss": "focal"}, {"recall_weight": 0.7}, {"loss": "tversky_ce"}, {"loss": "tversky_ce", "recall_weight": 1},
    {"largest_component": ["three"]}, {"largest_component": "one"}, {"largest_component": ["*", "one"]},
    {"processes": 0}, {"precision": "int8"}, {"ema_momentum": 0}, {"ema_momentum": "1e-3"},
    {"learning_rate": "1e-3"}, {"channels": ["red", "green"]}, {"pictures": True},
])
def test_an_override_that_does_not_fit_is_one_line(overrides: dict[str, object]) -> None:
    plan = make_plan(fingerprint_of((64, 64, 64), (1.0, 1.0, 1.0)), INDEX, name="d_3d", overrides={"iterations": 3000})
    tuples = {key: tuple(value) if isinstance(value, list) else value for key, value in overrides.items()}
    check_plan(plan, Path("bundle.yaml"), labels=INDEX.labels)
    with pytest.raises(InputError, match=r"^bundle\.yaml: `\w+: .*`; expected .*; correct it") as caught:
        check_plan(replace(plan, **tuples), Path("bundle.yaml"), labels=INDEX.labels)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("overrides", "loss", "recall_weight"), [
    ({}, "dice_ce", None), ({"loss": "dice"}, "dice", None), ({"loss": "cross_entropy"}, "cross_entropy", None),
    ({"loss": "tversky_ce"}, "tversky_ce", 0.7), ({"loss": "tversky_ce", "recall_weight": 0.6}, "tversky_ce", 0.6),
])
def test_a_loss_has_a_recall_weight_where_it_takes_one(
    overrides: dict[str, object], loss: str, recall_weight: float | None
) -> None:
    plan = make_plan(fingerprint_of((64, 64, 64), (1.0, 1.0, 1.0)), INDEX, name="d_3d", overrides=overrides)
    check_plan(plan, Path("bundle.yaml"), labels=INDEX.labels)
    assert (plan.loss, plan.recall_weight) == (loss, recall_weight)


def test_an_unknown_override_names_the_nearest_key(tmp_path: Path) -> None:
    path = tmp_path / "bundle.yaml"
    path.write_text("iteratons: 5\n")
    with pytest.raises(InputError, match=r"bundle\.yaml: unknown key `iteratons`; .*did you mean `iterations`\?"):
        read_overrides(path)


@pytest.mark.parametrize(("line", "message"), [
    ("spatial_dims: 4", "`spatial_dims: 4`; expected 2 or 3; correct it"),
    ("preset: fast", "`preset: fast`; expected one of quick, standard, thorough; correct it"),
    ("architecture: VNet", "`architecture: VNet`; expected one of UNet, BasicUNet, DynUNet; correct it"),
    ("width: 0", "`width: 0`; expected a whole number, 1 or more; correct it"),
    ("iterations: many", "`iterations: many`; expected a whole number, 1 or more; correct it"),
    ("memory_gib: 1", "`memory_gib: 1`; expected more than 1, which the libraries alone take; correct it"),
    ("budget: 15", "`budget: 15`; expected a time such as `15 min`, `2 h` or `90 s`; write a number and its unit"),
    ("budget: 0 min", "`budget: 0 min`; expected a time such as"),
    ("budget: 1 h\niterations: 9", "both `budget: 1 h` and `iterations: 9`; expected one of them: .*; remove"),
    ("preset: quick\niterations: 9", "both `preset: quick` and `iterations: 9`; expected one of them: .*; remove"),
    ("patch_size: 64", "`patch_size: 64`; expected a list of three numbers, x y z; correct it"),
])
def test_a_choice_that_does_not_exist_is_one_line(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bundle.yaml"
    path.write_text(line + "\n")
    with pytest.raises(InputError, match=f"^{path}: {message}"):
        read_overrides(path)


@pytest.mark.parametrize(("budget", "seconds"), [("90 s", 90), ("15 min", 900), ("2h", 7200), (" 0.5 min ", 30)])
def test_a_budget_is_a_number_and_a_unit(budget: str, seconds: float) -> None:
    assert budget_seconds(budget, Path("bundle.yaml")) == seconds


@pytest.mark.parametrize(("overrides", "budget", "iterations", "epochs", "validate_every", "precision"), [
    ({}, "30 min", None, None, None, None),
    ({"preset": "quick"}, "5 min", None, None, None, None),
    ({"preset": "thorough", "budget": "2 h", "epochs": 40}, "2 h", None, 40, None, None),
    ({"iterations": 3000}, None, 3000, 50, 5, "float32"),
    ({"iterations": 3}, None, 3, 3, 3, "float32"),
    ({"iterations": 3000, "precision": "bfloat16"}, None, 3000, 50, 5, "bfloat16"),
])
def test_a_plan_has_a_budget_or_iterations(
    overrides: dict[str, object], budget: str | None, iterations: int | None, epochs: int | None,
    validate_every: int | None, precision: str | None,
) -> None:
    plan = make_plan(fingerprint_of((64, 64, 64), (1.0, 1.0, 1.0)), INDEX, name="d_3d", overrides=overrides)
    check_plan(plan, Path("bundle.yaml"), labels=INDEX.labels)
    assert (plan.budget, plan.iterations) == (budget, iterations)
    assert (plan.epochs, plan.validate_every, plan.precision) == (epochs, validate_every, precision)


@pytest.mark.parametrize(("overrides", "first"), [
    ({"preset": "quick"}, 16), ({"preset": "standard"}, 24), ({}, 24), ({"iterations": 3000}, 16),
    ({"preset": "thorough"}, 48), ({"preset": "thorough", "width": 20}, 20),
    ({"preset": "thorough", "spatial_dims": 2}, 64),
])
def test_a_preset_sets_the_width_until_it_is_set(overrides: dict[str, object], first: int) -> None:
    plan = make_plan(fingerprint_of((64, 64, 64), (1.0, 1.0, 1.0)), INDEX, name="d_3d", overrides=overrides)
    assert plan.network_def["channels"][:2] == [first, 2 * first]


def test_a_batch_that_memory_has_no_room_for_is_smaller_then_the_patch_is() -> None:
    fingerprint = fingerprint_of((512, 512, 512), (1.0, 1.0, 1.0))
    plans = [make_plan(fingerprint, INDEX, name="d_3d", overrides={"architecture": "DynUNet", "memory_gib": gib})
             for gib in (8.0, 1.2, 1.02)]
    roomy, narrow, tiny = plans
    assert narrow.patch_size == roomy.patch_size
    assert narrow.batch_size < roomy.batch_size
    assert max(tiny.patch_size) < max(roomy.patch_size)
    assert tiny.batch_size >= 1


def experiment_in(folder: Path, *, overrides: dict[str, object]) -> None:
    case = IndexedCase("a", "a", "train", "a", "l", (64, 64, 20), (1.0, 1.0, 4.0), "RAS", {"one": 9, "two": 1}, "", "")
    write_index(folder / "work/e/index.json", replace(INDEX, cases=(case,)))
    (folder / "configs/e").mkdir(parents=True)
    (folder / "configs/e/bundle.yaml").write_text(yaml.safe_dump(overrides))


def test_explaining_gives_each_value_its_reason_on_one_line_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment_in(tmp_path, overrides={"iterations": 60, "seed": 7, "architecture": "DynUNet"})
    monkeypatch.chdir(tmp_path)
    run("e", explain=True)
    lines = capsys.readouterr().out.splitlines()
    assert not (tmp_path / "work/e/plan.yaml").exists()

    run("e")
    plan = yaml.safe_load((tmp_path / "work/e/plan.yaml").read_text())
    explained = {key: value for line in lines for key, value in yaml.safe_load(line).items()}
    assert {key: explained[key] for key in plan} == plan
    assert len(lines) == len(explained) == len(plan) + 3  # preset, architecture and width decide several at once
    why = {line.split(":")[0]: line.split("  # ")[1] for line in lines}
    assert why["seed"] == why["iterations"] == "set in bundle.yaml"
    # 64 * 64 * 20 = 81920 voxels are more than 2 * 32768. Equal sides of s mm: s * s * s / 4 = 32768 gives 50.8 mm.
    assert why["patch_size"].startswith("50.8 mm along each axis as far as the typical scan of 64 x 64 x 20")
    assert "kernels 3 x 3 x 1 for 2 levels" in why["network_def"]
    assert why["class_weights"].startswith("inverse to the cube root")
    assert why["rotation_rad"].startswith("15 degrees about each axis")


# Golden cases: what a person would work out by the rules, for kinds of data that differ in what decides.
# Each gives shape, spacing, overrides and: spacing, patch, batch, strides, kernels (DynUNet), features.
ALL = [3, 3, 3]
FLAT = [3, 3, 1]
GOLDEN = {
    # 36 * 50 * 35 = 63000 voxels are at most 65536: whole. Halved while 2.5 remain: 36 and 35 three times (4.5, 4.4),
    # 50 alone a fourth time is no level. Multiples of 8. 196608 / 89600 = 2.2 patches.
    "isotropic MR": (
        ((36, 50, 35),), (1.0, 1.0, 1.0), {},
        ((1.0, 1.0, 1.0), (40, 56, 40), 2, [[2, 2, 2]] * 3, [ALL] * 4, [16, 32, 64, 128]),
    ),
    # Sides of s mm: (s / 0.7)^2 * s / 5 = 32768 gives s = 43.1: 62 x 62 x 9. Spacing by level: 0.7 0.7 5, 1.4 1.4 5,
    # 2.8 2.8 5 (5 < 2 * 2.8: z joins, in pooling for the next level and in the kernel at once), 5.6 5.6 10, and z's
    # 4.5 voxels are not halved again: 11.2 11.2 10. Multiples of 16, 16, 2. 196608 / (64 * 64 * 10) = 4.8.
    "anisotropic CT": (
        ((512, 512, 30),), (0.7, 0.7, 5.0), {},
        ((0.7, 0.7, 5.0), (64, 64, 10), 4, [[2, 2, 1], [2, 2, 1], [2, 2, 2], [2, 2, 1]], [FLAT, FLAT, ALL, ALL, ALL],
         [16, 32, 64, 128, 256]),
    ),
    # (s / 0.6)^2 * s / 3.6 = 32768 gives s = 34.9: 58 x 58 x 10. 0.6 0.6 3.6, 1.2 1.2 3.6, 2.4 2.4 3.6 (z joins),
    # 4.8 4.8 7.2 (7.2 < 9.6 and z's 5 voxels are halved to 2.5), 9.6 9.6 14.4. Multiples of 16, 16, 4. 196608 / 49152.
    "anisotropic MR of a prostate": (
        ((320, 320, 20),), (0.6, 0.6, 3.6), {},
        ((0.6, 0.6, 3.6), (64, 64, 12), 4, [[2, 2, 1], [2, 2, 1], [2, 2, 2], [2, 2, 2]], [FLAT, FLAT, ALL, ALL, ALL],
         [16, 32, 64, 128, 256]),
    ),
    # 256 * 256 voxels are at most 2 * 65536: whole. Five halvings at most: 8 remain. 196608 / 65536 = 3.
    "2D": (
        ((256, 256, 1),), (1.0, 1.0, 1.0), {"spatial_dims": 2},
        ((1.0, 1.0, -1.0), (256, 256, 1), 3, [[2, 2]] * 5, [[3, 3]] * 6, [32, 64, 128, 256, 256, 256]),
    ),
    # As above: three channels change the first convolution alone. Pictures are planned in 2D without being asked.
    "2D RGB": (
        ((256, 256, 1),), (1.0, 1.0, 1.0), {},
        ((1.0, 1.0, -1.0), (256, 256, 1), 3, [[2, 2]] * 5, [[3, 3]] * 6, [32, 64, 128, 256, 256, 256]),
    ),
    # Whole. 20 20 8, 10 10 4 (a further 2 of z is too short), 5 5 4, 2.5 2.5 4. Multiples of 8, 8, 2; at the third
    # level 4 mm are twice z's 2 mm, but what was seen stays seen. 196608 / (24 * 24 * 8) = 42, 32 at most.
    "tiny images": (
        ((20, 20, 8),), (1.0, 1.0, 1.0), {},
        ((1.0, 1.0, 1.0), (24, 24, 8), 32, [[2, 2, 2], [2, 2, 1], [2, 2, 1]], [ALL] * 4, [16, 32, 64, 128]),
    ),
    # The median of the shapes is 40 40 40, 64000 voxels: whole. 40, 20, 10, 5, 2.5: multiples of 16. Two at least.
    "one very large image among small ones": (
        ((40, 40, 40),) * 4 + ((600, 600, 600),), (1.0, 1.0, 1.0), {},
        ((1.0, 1.0, 1.0), (48, 48, 48), 2, [[2, 2, 2]] * 4, [ALL] * 5, [16, 32, 64, 128, 256]),
    ),
    # A patch of 65536 pixels, equal sides: 256. Five halvings. 196608 / 65536 = 3.
    "2D radiograph": (
        ((2048, 2500, 1),), (0.143, 0.143, 1.0), {"spatial_dims": 2},
        ((0.143, 0.143, -1.0), (256, 256, 1), 3, [[2, 2]] * 5, [[3, 3]] * 6, [32, 64, 128, 256, 256, 256]),
    ),
}


@pytest.mark.parametrize("kind", GOLDEN)
def test_golden_plan(kind: str) -> None:
    shapes, spacing, overrides, (target, patch, batch, strides, kernels, features) = GOLDEN[kind]
    fingerprint = Fingerprint(("a",) * len(shapes), shapes, (spacing,) * len(shapes), {"one": 9, "two": 1}, None, None)
    overrides = {"iterations": 3000} | overrides
    index = replace(INDEX, channels=RGB, are_pictures=True) if "RGB" in kind else INDEX
    plan = make_plan(fingerprint, index, name="d", overrides=overrides)
    assert (plan.channels, plan.pictures) == (index.channels, index.are_pictures)
    assert plan.network_def["in_channels"] == plan.patch_shape[0] == len(index.channels)
    assert (plan.spacing_mm, plan.patch_size, plan.batch_size) == (target, patch, batch)
    assert (plan.network_def["_target_"], plan.network_def["strides"]) == ("UNet", strides)
    assert plan.network_def["channels"] == features
    assert "kernel_size" not in plan.network_def  # one for all levels: MONAI's default of 3

    dynamic = make_plan(fingerprint, index, name="d", overrides={**overrides, "architecture": "DynUNet"})
    assert (dynamic.spacing_mm, dynamic.patch_size, dynamic.batch_size) == (target, patch, batch)
    assert dynamic.network_def["strides"] == [[1] * len(strides[0]), *strides]
    assert dynamic.network_def["kernel_size"] == kernels
    assert dynamic.network_def["filters"] == features


def test_decisions_follow_what_was_set_before_them() -> None:
    fingerprint = fingerprint_of((64, 64, 64), (1.0, 1.0, 1.0))
    made = decide(fingerprint, INDEX, name="d", overrides={"patch_size": [16, 16, 16]}).made
    assert made["patch_size"].why == "set in bundle.yaml"
    # 196608 / 4096 = 48 patches, 32 at most.
    assert made["batch_size"].value == 32
    assert made["batch_size"].why.startswith("196608 voxels a batch / 4096 a patch, 2 at least and 32 at most")


def test_with_folds_the_budget_is_said_to_be_for_each_of_them() -> None:
    case = IndexedCase("a", "a", "train", "i", "l", (40, 40, 40), (1.0, 1.0, 1.0), "RAS", {}, "0", "1")
    index = replace(INDEX, cases=(replace(case, fold=0), replace(case, fold=1)))
    made = decide(fingerprint_of((40, 40, 40), (1.0, 1.0, 1.0)), index, name="d", overrides={}).made
    assert made["budget"].why == "preset standard, for each of 2 folds"
    assert made["iterations"].why.endswith("for each of 2 folds")

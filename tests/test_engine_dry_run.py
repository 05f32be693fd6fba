"""The search is held against made-up times; that steps are really taken and timed is seen on a tiny network."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from pipeline.engine.dry_run import (
    PATIENCE_S,
    Setting,
    Trial,
    attempts_at,
    changes_to_try,
    measure,
    search,
    try_apart,
    why_unsafe,
)
from pipeline.engine.fingerprint import Fingerprint
from pipeline.records.index import Index
from pipeline.records.plan import Plan
from pipeline.stages.plan import make_plan

PLAIN = Setting("float32")
CPU = torch.device("cpu")


def tiny_plan(**overrides: Any) -> Plan:
    fingerprint = Fingerprint(("a",), ((16, 16, 16),), ((1.0, 1.0, 1.0),), {"one": 9}, None, None)
    index = Index("d", ".", "MR", "CC0", {"one": 1}, ())
    return make_plan(fingerprint, index, name="d", overrides={"width": 4, "batch_size": 2, **overrides})


def made_up(seconds: dict[Setting, float], *, gib_per_patch: float = 0.0) -> Any:
    """Returns an attempt that takes the given seconds, and fails for a setting that has none."""
    def attempt(setting: Setting, batch_size: int) -> Trial:
        if setting not in seconds:
            return Trial(setting, batch_size, failure="no compiler")
        return Trial(setting, batch_size, seconds[setting], 1.0, gib_per_patch * batch_size)

    return attempt


def test_each_change_is_tried_upon_the_best_so_far_and_kept_where_it_is_faster() -> None:
    bfloat16 = replace(PLAIN, precision="bfloat16")
    last = replace(bfloat16, channels_last=True)
    compiled = replace(bfloat16, compile=True)
    best, trials = search(
        PLAIN, [{"precision": "bfloat16"}, {"channels_last": True}, {"compile": True}], batch_size=4, memory_gib=8,
        budget_s=900, attempt=made_up({PLAIN: 1.0, bfloat16: 0.6, last: 0.7, compiled: 0.5}),
    )
    assert [trial.setting for trial in trials] == [PLAIN, bfloat16, last, compiled]
    assert best == trials[3]


def test_what_is_faster_by_less_than_the_noise_or_fails_is_left() -> None:
    last = replace(PLAIN, channels_last=True)
    best, trials = search(PLAIN, [{"channels_last": True}, {"compile": True}], batch_size=4, memory_gib=8, budget_s=900,
                          attempt=made_up({PLAIN: 1.0, last: 0.98}))
    assert best == trials[0]
    assert trials[2].failure == "no compiler"


def test_what_takes_longer_to_start_than_it_saves_is_left() -> None:
    # 900 s hold 890 steps of 1 s after 10 s, and 1000 of 0.8 s after 100 s, but only 875 after 200 s.
    plain = Trial(PLAIN, 4, 1.0, 10.0, 1.0)
    for start_s, is_worth_it in ((100.0, True), (200.0, False)):
        compiled = Trial(replace(PLAIN, compile=True), 4, 0.8, start_s, 1.0)
        best, _ = search(PLAIN, [{"compile": True}], batch_size=4, memory_gib=8, budget_s=900,
                         attempt=lambda setting, _, compiled=compiled: compiled if setting.compile else plain)
        assert (best == compiled) is is_worth_it


def test_a_process_that_takes_too_long_is_ended_and_said_to() -> None:
    trial = try_apart(tiny_plan(), PLAIN, 2, seconds=-PATIENCE_S, start_s=0.0)
    assert trial.failure == "took longer than 0 s"


@pytest.mark.parametrize(("batch", "gib_per_patch", "fitting"), [(4, 3.0, 2), (5, 3.0, 1), (6, 2.0, 3), (4, 2.0, 4)])
def test_the_batch_is_the_largest_divisor_that_memory_holds(batch: int, gib_per_patch: float, fitting: int) -> None:
    best, trials = search(PLAIN, [], batch_size=batch, memory_gib=8, budget_s=900, attempt=made_up({PLAIN: 1.0},
                                                                                     gib_per_patch=gib_per_patch))
    assert best is not None
    assert best.batch_size == fitting
    assert [trial.batch_size for trial in trials] == [size for size in (6, 5, 4, 3, 2, 1)
                                                      if batch % size == 0 and fitting <= size <= batch]


def test_out_of_memory_takes_a_smaller_batch_and_any_other_failure_ends_the_search() -> None:
    def attempt(setting: Setting, batch_size: int) -> Trial:
        failed = Trial(setting, batch_size, failure="out", is_out_of_memory=True)
        return failed if batch_size > 1 else Trial(setting, batch_size, 1.0, 1.0, 1.0)

    best, trials = search(PLAIN, [], batch_size=4, memory_gib=8, budget_s=900, attempt=attempt)
    assert [trial.batch_size for trial in trials] == [4, 2, 1]
    assert best == trials[2]
    assert search(PLAIN, [], batch_size=4, memory_gib=8, budget_s=900, attempt=made_up({}))[0] is None


def test_one_patch_too_many_is_no_schedule() -> None:
    best, trials = search(PLAIN, [], batch_size=2, memory_gib=8, budget_s=900,
                          attempt=made_up({PLAIN: 1.0}, gib_per_patch=9.0))
    assert best is None
    assert trials[-1].peak_gib == 9.0


def test_compiling_is_tried_only_where_the_budget_pays_for_it() -> None:
    assert {"compile": True} in changes_to_try(tiny_plan(), CPU, budget_s=3600)
    assert {"compile": True} not in changes_to_try(tiny_plan(), CPU, budget_s=300)


def test_a_precision_that_a_person_set_is_not_changed() -> None:
    changes = changes_to_try(tiny_plan(precision="float32"), torch.device("cuda"), budget_s=60)
    assert all("precision" not in change for change in changes)


def test_a_setting_that_would_train_on_wrong_gradients_is_a_failure_and_takes_no_step() -> None:
    # 16 voxels halved three times are 2 deep, which a kernel of 3 does not survive in bfloat16.
    plan = tiny_plan(patch_size=[16, 16, 16])
    assert plan.network_def["strides"] == [[2, 2, 2]] * 2
    shallow = replace(plan, network_def={**plan.network_def, "channels": [4, 8, 16, 32], "strides": [[2, 2, 2]] * 3})
    bfloat16 = Setting("bfloat16")
    assert why_unsafe(plan, bfloat16, CPU) is None
    assert why_unsafe(shallow, bfloat16, torch.device("cuda")) is None
    trial = attempts_at(shallow, CPU, seconds=1, budget_s=900)(bfloat16, 2)
    assert trial.failure is not None
    assert trial.failure.startswith("weight gradients are wrong in bfloat16")


@pytest.mark.parametrize("overrides", [{}, {"spatial_dims": 2}, {"architecture": "DynUNet"}])
def test_a_step_is_taken_and_timed(overrides: dict[str, Any]) -> None:
    trial = measure(tiny_plan(**overrides), Setting("float32", channels_last=True), 2, seconds=0.0)
    assert trial.failure is None
    assert trial.seconds > 0
    assert trial.start_s > trial.seconds
    assert trial.peak_gib > 0.05


def test_deep_supervision_is_stepped_through() -> None:
    plan = tiny_plan(architecture="DynUNet")
    deep = replace(plan, network_def={**plan.network_def, "deep_supervision": True})
    assert measure(deep, PLAIN, 2, seconds=0.0).seconds > 0


def test_a_process_apart_reports_what_it_measured_or_why_it_could_not() -> None:
    plan = tiny_plan()
    assert try_apart(plan, PLAIN, 2, seconds=0.0).seconds > 0
    broken = replace(plan, network_def={**plan.network_def, "in_channels": "three"})
    failed = try_apart(broken, PLAIN, 2, seconds=0.0)
    assert failed.failure is not None
    assert "\n" not in failed.failure
    assert not failed.is_out_of_memory


def test_a_tensor_that_memory_does_not_suffice_for_is_out_of_memory() -> None:
    # 2^55 bytes are more than a process can address.
    huge = replace(tiny_plan(spatial_dims=2), patch_size=(2**26, 2**26, 1))
    assert try_apart(huge, PLAIN, 2, seconds=0.0).is_out_of_memory


@pytest.mark.parametrize(("signal", "is_out_of_memory"), [(9, True), (10, False)])
def test_a_process_that_the_system_kills_is_out_of_memory(signal: int, is_out_of_memory: bool) -> None:
    plan = replace(tiny_plan(), network_def={
        "_target_": "torch.nn.Identity", "killed": f"$torch.os.kill(torch.os.getpid(), {signal})"
    })
    trial = try_apart(plan, PLAIN, 2, seconds=0.0)
    assert (trial.failure, trial.is_out_of_memory) == (f"ended with -{signal}", is_out_of_memory)

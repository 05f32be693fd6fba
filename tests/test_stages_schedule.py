from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine import dry_run
from pipeline.engine.dry_run import Setting, Trial
from pipeline.engine.fingerprint import Fingerprint
from pipeline.records.errors import InputError
from pipeline.records.files import sha256_of_file
from pipeline.records.index import Index
from pipeline.records.plan import write_plan
from pipeline.records.schedule import read_schedule
from pipeline.stages.plan import make_plan
from pipeline.stages.schedule import run

PLAN, SCHEDULE = Path("work/e/plan.yaml"), Path("work/e/schedule.yaml")


@pytest.fixture(autouse=True)
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def plan_with(**overrides: Any) -> None:
    fingerprint = Fingerprint(("a",), ((16, 16, 16),), ((1.0, 1.0, 1.0),), {"one": 9}, None, None)
    index = Index("d", ".", "MR", "CC0", {"one": 1}, ())
    write_plan(PLAN, make_plan(fingerprint, index, name="e", overrides={"width": 4, "batch_size": 4, **overrides}))


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Setting]:
    """Replaces the dry run's processes: half a second a step and 3 GiB a patch, a quarter with channels last."""
    settings: list[Setting] = []

    def attempts_at(*_: Any, **__: Any) -> Any:
        def attempt(setting: Setting, batch_size: int) -> Trial:
            settings.append(setting)
            if setting.compile:
                return Trial(setting, batch_size, failure="InductorError: no C++ compiler")
            return Trial(setting, batch_size, 0.25 if setting.channels_last else 0.5, 5.0, 3.0 * batch_size)

        return attempt

    monkeypatch.setattr(dry_run, "attempts_at", attempts_at)
    return settings


def test_iterations_are_scheduled_without_timing_anything(tried: list[Setting]) -> None:
    plan_with(iterations=300, epochs=10, validate_every=2)
    run("e")
    schedule = read_schedule(SCHEDULE)
    assert (schedule.iterations, schedule.epochs, schedule.validate_every) == (300, 10, 2)
    assert (schedule.batch_size, schedule.accumulation, schedule.precision) == (4, 1, "float32")
    assert (schedule.channels_last, schedule.compile, schedule.threads) == (False, False, None)
    assert schedule.measured is None
    assert schedule.plan_sha256 == sha256_of_file(PLAN)
    assert tried == []
    before = SCHEDULE.read_bytes()
    run("e", remeasure=True)
    assert SCHEDULE.read_bytes() == before


def test_a_precision_that_was_set_is_taken() -> None:
    plan_with(iterations=300, precision="bfloat16")
    run("e")
    assert read_schedule(SCHEDULE).precision == "bfloat16"


def test_a_precision_that_is_unsafe_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plan_with(iterations=300, precision="bfloat16")
    monkeypatch.setattr(dry_run, "why_unsafe", lambda *_: "wrong gradients")
    with pytest.raises(InputError, match=r"plan\.yaml: `precision: bfloat16`; expected float32: wrong gradients; set"):
        run("e")
    assert not SCHEDULE.exists()


def test_a_budget_is_filled_by_the_fastest_setting_that_fits_into_the_memory(tried: list[Setting]) -> None:
    plan_with(budget="1 h")
    run("e")
    schedule = read_schedule(SCHEDULE)
    # 4 patches take 12 GiB and 2 take 6, of 8: two batches a step, so 0.5 s with channels last. Start 10 + 5 s:
    # (0.85 * 3600 - 15) / 0.5 = 6090 steps, in 100 epochs of 60, ten validations.
    assert (schedule.batch_size, schedule.accumulation, schedule.channels_last) == (2, 2, True)
    assert (schedule.iterations, schedule.epochs, schedule.validate_every) == (6000, 100, 10)
    assert not schedule.compile
    assert schedule.measured is not None
    first, second, *_, last = schedule.measured["trials"]
    assert first == {"precision": "float32", "channels_last": False, "compile": False, "threads": None, "batch_size": 4,
                     "seconds_per_step": 0.5, "seconds_to_start": 5.0, "peak_gib": 12.0}
    assert (second["batch_size"], second["peak_gib"]) == (2, 6.0)
    assert last["failed"] == "InductorError: no C++ compiler"
    assert schedule.measured["device"]


def test_a_schedule_is_kept_until_it_is_asked_for_anew_or_the_plan_is_another(tried: list[Setting]) -> None:
    plan_with(budget="15 min")
    run("e")
    count, changed = len(tried), SCHEDULE.stat().st_mtime_ns
    run("e")
    assert (len(tried), SCHEDULE.stat().st_mtime_ns) == (count, changed)
    run("e", remeasure=True)
    assert len(tried) == 2 * count
    plan_with(budget="30 min")
    run("e")
    assert len(tried) == 3 * count
    assert read_schedule(SCHEDULE).iterations == 3000  # (0.85 * 1800 - 15) / 0.5 = 3030, 100 epochs of 30


def test_a_schedule_of_an_earlier_version_is_replaced(tried: list[Setting]) -> None:
    plan_with(iterations=300)
    SCHEDULE.write_text(f"plan_sha256: {sha256_of_file(PLAN)}\n")
    run("e")
    assert read_schedule(SCHEDULE).iterations == 300


@pytest.mark.parametrize(("last", "message"), [
    ({"peak_gib": 9.0}, r"takes 9\.0 GiB; expected at most `memory_gib: 8`; raise `memory_gib`"),
    ({"failure": "OutOfMemoryError: x", "is_out_of_memory": True}, "more memory than there is .*raise `memory_gib`"),
    ({"failure": "ValueError: no"}, r"no training step that runs \(ValueError: no\); expected one that does; correct"),
])
def test_where_nothing_runs_it_says_why(
    last: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = replace(Trial(Setting("float32"), 1, 1.0), **last)
    monkeypatch.setattr(dry_run, "attempts_at", lambda *_, **__: lambda *_: trial)
    plan_with(budget="15 min")
    with pytest.raises(InputError, match=message):
        run("e")
    assert not SCHEDULE.exists()


def test_a_missing_plan_is_one_line() -> None:
    with pytest.raises(InputError, match=r"work/e/plan\.yaml: no such file"):
        run("e")

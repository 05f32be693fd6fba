"""plan, device -> work/<exp>/schedule.yaml: how many steps, in what batches and how computed on the device at hand.

What is timed is timed here and kept, so that the training it schedules is deterministic.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.records.errors import InputError
from pipeline.records.files import sha256_of_file
from pipeline.records.folders import ExperimentFolders
from pipeline.records.plan import Plan, budget_seconds, read_plan
from pipeline.records.schedule import Schedule, epochs_of, iterations_within, read_schedule, write_schedule

if TYPE_CHECKING:
    from pipeline.engine.dry_run import Trial

# Of the budget, and within these bounds: a dry run may take so long, processes' starts and compiling aside.
DRY_RUN_SHARE, SHORTEST_DRY_RUN_S, LONGEST_DRY_RUN_S = 1 / 15, 20.0, 60.0
# From the command to the first step of a training, what the dry run's processes do not take.
START_S = 10.0


def run(experiment: str, *, remeasure: bool = False) -> None:
    """Writes the schedule of one experiment, unless its plan has one; `remeasure` measures again all the same."""
    folders = ExperimentFolders(experiment)
    plan = read_plan(folders.plan)
    path, digest = folders.schedule, sha256_of_file(folders.plan)
    if not remeasure and _is_of_plan(path, digest):
        print(f"schedule: {path} is kept; --remeasure chooses anew")
        return
    choose = fixed_schedule if plan.budget is None else measured_schedule
    schedule = choose(plan, digest, where=folders.plan)
    write_schedule(path, schedule)
    print(f"schedule: {schedule.iterations} iterations in {schedule.epochs} epochs, batch {schedule.batch_size}"
          f"{f' x {schedule.accumulation}' if schedule.accumulation > 1 else ''}, {schedule.precision}"
          f"{', channels last' if schedule.channels_last else ''}{', compiled' if schedule.compile else ''}")


def fixed_schedule(plan: Plan, plan_sha256: str, *, where: Path) -> Schedule:
    """Returns what a plan with `iterations` says, computed in the plainest way: the same on every machine.

    Raises:
        InputError: ``unsafe-precision``: the plan wants bfloat16 where this machine computes it wrongly.
    """
    assert plan.iterations is not None, "a plan has a budget or iterations"
    assert plan.epochs is not None
    assert plan.validate_every is not None
    if plan.precision == "bfloat16":
        _refuse_unsafe(plan, where)
    # Epochs are of one length.
    iterations = -(-plan.iterations // plan.epochs) * plan.epochs
    return Schedule(
        iterations=iterations, epochs=plan.epochs, validate_every=plan.validate_every, batch_size=plan.batch_size,
        accumulation=1, precision=plan.precision or "float32", channels_last=False, compile=False, threads=None,
        measured=None, plan_sha256=plan_sha256,
    )


def measured_schedule(plan: Plan, plan_sha256: str, *, where: Path) -> Schedule:
    """Returns the fastest safe way to compute that a dry run finds, and the iterations that the plan's budget holds.

    Raises:
        InputError: ``out-of-memory``, ``dry-run-failed`` or ``budget-too-short``.
    """
    from pipeline.engine.dry_run import attempts_at, changes_to_try, device_at_hand, first_setting, name_of, search

    budget_s = budget_seconds(plan.budget, where)
    device = device_at_hand()
    changes = changes_to_try(plan, device, budget_s=budget_s)
    total_s = min(LONGEST_DRY_RUN_S, max(SHORTEST_DRY_RUN_S, DRY_RUN_SHARE * budget_s))
    attempt = attempts_at(plan, device, seconds=total_s / (1 + len(changes)), budget_s=budget_s)
    best, trials = search(first_setting(plan), changes, batch_size=plan.batch_size, memory_gib=plan.memory_gib,
                          budget_s=budget_s, attempt=attempt)
    if best is None:
        raise _nothing_ran(trials[-1], plan, where)
    accumulation = plan.batch_size // best.batch_size
    iterations, epochs, every = epochs_of(
        iterations_within(budget_s, seconds_per_step=accumulation * best.seconds, start_s=START_S + best.start_s,
                          where=where),
        epochs=plan.epochs, validate_every=plan.validate_every,
    )
    return Schedule(
        iterations=iterations, epochs=epochs, validate_every=every, batch_size=best.batch_size,
        accumulation=accumulation, precision=best.setting.precision, channels_last=best.setting.channels_last,
        compile=best.setting.compile, threads=best.setting.threads,
        measured={"device": name_of(device), "trials": [_entry(trial) for trial in trials]}, plan_sha256=plan_sha256,
    )


def _is_of_plan(path: Path, digest: str) -> bool:
    try:
        return read_schedule(path).plan_sha256 == digest
    except InputError:  # missing, or written by an earlier version
        return False


def _refuse_unsafe(plan: Plan, where: Path) -> None:
    from pipeline.engine.dry_run import device_at_hand, first_setting, why_unsafe

    reason = why_unsafe(plan, first_setting(plan), device_at_hand())
    if reason is not None:
        raise InputError(where, found="`precision: bfloat16`", wanted=f"float32: {reason}", reason="unsafe-precision",
                         remedy="set `precision: float32` or a larger `patch_size` in bundle.yaml")


def _nothing_ran(last: "Trial", plan: Plan, where: Path) -> InputError:
    if last.failure is None or last.is_out_of_memory:
        took = f"{last.peak_gib:.1f} GiB" if last.failure is None else f"more memory than there is ({last.failure})"
        return InputError(where, found=f"a training step of one patch that takes {took}",
                          wanted=f"at most `memory_gib: {plan.memory_gib:g}`", reason="out-of-memory",
                          remedy="raise `memory_gib`, or set a smaller `patch_size` or `width` in bundle.yaml")
    return InputError(where, found=f"no training step that runs ({last.failure})", wanted="one that does",
                      remedy="correct `network_def`, `patch_size` or `precision` in bundle.yaml",
                      reason="dry-run-failed")


def _entry(trial: "Trial") -> dict[str, Any]:
    """Returns a trial as it stands in the file: its setting and what that came to."""
    setting = trial.setting
    entry = {"precision": setting.precision, "channels_last": setting.channels_last, "compile": setting.compile,
             "threads": setting.threads, "batch_size": trial.batch_size}
    if trial.failure is not None:
        return {**entry, "failed": trial.failure}
    return {**entry, "seconds_per_step": round(trial.seconds, 4), "seconds_to_start": round(trial.start_s, 1),
            "peak_gib": round(trial.peak_gib, 2)}

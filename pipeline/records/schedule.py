"""The schedule: how a plan is carried out on the device at hand. What is timed stands here; training times nothing.

`schedule.yaml` is merged over the plan, so every field here but `measured` and `plan_sha256` is a key of `train.yaml`.
"""

from dataclasses import asdict, dataclass, fields
from math import ceil
from pathlib import Path
from typing import Any

from pipeline.records.commented_yaml import commented_yaml
from pipeline.records.errors import InputError
from pipeline.records.files import write_text
from pipeline.records.strict_yaml import read_exactly

COMMENTS = {
    "iterations": "Optimiser steps.",
    "epochs": "How many points the curves get.",
    "validate_every": "Epochs between two validations.",
    "batch_size": "Patches per forward and backward; times `accumulation` they make the plan's batch.",
    "accumulation": "Such batches per optimiser step.",
    "precision": "Of the convolutions, in training and its validation; weights and loss are float32.",
    "channels_last": "Whether channels lie innermost in memory.",
    "compile": "Whether torch.compile prepares the network.",
    "threads": "Of the CPU; null: as many as torch takes.",
    "measured": "What the choice was made by; null: nothing was timed, the plan gives the iterations.",
    "plan_sha256": "The plan that this is the schedule of; another plan is scheduled anew.",
}
SHORTEST_EPOCH, MOST_EPOCHS, VALIDATIONS = 20, 100, 10
# Of a budget, for patches and augmentation (a tenth of a step on two cores), validation and checkpoints; not timed.
RESERVE = 0.15
FEWEST_ITERATIONS = SHORTEST_EPOCH


@dataclass(frozen=True)
class Schedule:
    """How long, in what batches and how computed. Fields are explained by `COMMENTS`."""

    iterations: int
    epochs: int
    validate_every: int
    batch_size: int
    accumulation: int
    precision: str
    channels_last: bool
    compile: bool
    threads: int | None
    measured: dict[str, Any] | None
    plan_sha256: str


def iterations_within(budget_s: float, *, seconds_per_step: float, start_s: float, where: Path) -> int:
    """Returns how many optimiser steps a budget holds beside start, validation and checkpoints.

    Args:
        budget_s: of the whole training, seconds.
        seconds_per_step: of one optimiser step.
        start_s: until the first step runs at full speed, compilation included.
        where: the plan that has the budget.

    Raises:
        InputError: ``budget-too-short``: they are fewer than an epoch.
    """
    iterations = int(((1 - RESERVE) * budget_s - start_s) / seconds_per_step)
    if iterations < FEWEST_ITERATIONS:
        needed_s = (FEWEST_ITERATIONS * seconds_per_step + start_s) / (1 - RESERVE)
        raise InputError(where, found=f"a budget of {budget_s:g} s, which holds {max(0, iterations)} steps here",
                         wanted=f"at least {FEWEST_ITERATIONS} steps, {ceil(needed_s)} s", reason="budget-too-short",
                         remedy="raise `budget` in bundle.yaml, or plan a smaller patch, batch or width")
    return iterations


def epochs_of(iterations: int, *, epochs: int | None, validate_every: int | None) -> tuple[int, int, int]:
    """Returns iterations, epochs and epochs between validations, where the first is a multiple of the second.

    Args:
        iterations: at most so many.
        epochs: what a person set, or None.
        validate_every: likewise.
    """
    epochs = min(epochs or MOST_EPOCHS, iterations if epochs else max(1, iterations // SHORTEST_EPOCH))
    return iterations // epochs * epochs, epochs, min(validate_every or ceil(epochs / VALIDATIONS), epochs)


def write_schedule(path: Path, schedule: Schedule) -> None:
    """Writes the schedule as commented YAML, the same bytes for the same schedule."""
    heading = "Chosen by `python -m pipeline schedule`; kept until --remeasure, or until the plan is another."
    write_text(path, commented_yaml(heading, asdict(schedule), COMMENTS))


def read_schedule(path: Path) -> Schedule:
    """Reads a schedule that `write_schedule` wrote.

    Raises:
        InputError: the file is missing, has keys that no schedule has, or lacks one.
    """
    return Schedule(**read_exactly(path, {item.name for item in fields(Schedule)},
                                   remedy="run `python -m pipeline schedule --experiment NAME --remeasure`"))

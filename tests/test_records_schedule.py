from pathlib import Path

import pytest

from pipeline.records.errors import InputError
from pipeline.records.schedule import Schedule, epochs_of, iterations_within, read_schedule, write_schedule

PLAN = Path("plan.yaml")
SCHEDULE = Schedule(100, 5, 1, 2, 1, "float32", False, False, None, None, "0" * 64)


def test_a_budget_holds_what_is_left_after_the_reserve_and_the_start() -> None:
    # 0.85 * 900 s - 15 s = 750 s at 0.2 s a step; 3749.9 would be 3749.
    assert iterations_within(900, seconds_per_step=0.2, start_s=15, where=PLAN) == 3750
    assert iterations_within(900, seconds_per_step=0.2, start_s=15.1, where=PLAN) == 3749


def test_a_budget_too_short_for_an_epoch_says_how_long_it_must_be() -> None:
    # 0.85 * 60 - 11 = 40 s are 8 steps of 5 s; 20 steps and the start are 111 s, and 111 / 0.85 = 130.6.
    with pytest.raises(InputError, match="holds 8 steps here; expected at least 20 steps, 131 s; raise `budget`"):
        iterations_within(60, seconds_per_step=5, start_s=11, where=PLAN)


@pytest.mark.parametrize(("iterations", "epochs", "every", "expected"), [
    (3750, None, None, (3700, 100, 10)),  # 100 epochs of 37
    (119, None, None, (115, 5, 1)),  # 119 / 20 = 5 epochs of 23
    (20, None, None, (20, 1, 1)),
    (3750, 40, None, (3720, 40, 4)),  # 40 epochs of 93, as set
    (3750, 40, 8, (3720, 40, 8)),
    (30, 50, 60, (30, 30, 30)),  # no more epochs than iterations, and validated at least at the end
])
def test_epochs_are_of_equal_length_and_at_least_twenty_iterations(
    iterations: int, epochs: int | None, every: int | None, expected: tuple[int, int, int]
) -> None:
    assert epochs_of(iterations, epochs=epochs, validate_every=every) == expected


def test_a_schedule_survives_its_file(tmp_path: Path) -> None:
    write_schedule(tmp_path / "schedule.yaml", SCHEDULE)
    assert read_schedule(tmp_path / "schedule.yaml") == SCHEDULE


def test_a_schedule_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "schedule.yaml"
    write_schedule(path, SCHEDULE)
    path.write_text(path.read_text().replace("threads: null\n", ""))
    with pytest.raises(InputError, match=r"no `threads`; .*--remeasure"):
        read_schedule(path)

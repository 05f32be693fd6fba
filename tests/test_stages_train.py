from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.records.errors import InputError
from pipeline.records.trainings import write_trainings
from pipeline.stages import train

RESUME = Path("work/.resume/tiny")


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The overrides of each training; a training writes weights and a checkpoint and takes no time."""
    made: list[dict[str, Any]] = []

    def run_training(root: Path, *, overrides: dict[str, Any]) -> None:
        made.append(overrides)
        (root / "model.pt").write_text("weights")
        Path(overrides["resume_file"]).parent.mkdir(parents=True, exist_ok=True)
        Path(f"{overrides['resume_file']}-cpu.pt").write_text("state")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "run_training", run_training)
    monkeypatch.setattr(train, "assemble_bundle", lambda *_, **__: None)
    monkeypatch.setattr(train, "read_plan", lambda _: SimpleNamespace(processes=1))
    monkeypatch.setattr(train, "read_schedule", lambda _: SimpleNamespace(batch_size=4, accumulation=1))
    monkeypatch.setattr(train, "lineage_of_training", lambda _: "l1")
    monkeypatch.setattr(train, "count_folds", lambda _: 0)
    monkeypatch.setattr(train.live, "start_run", lambda _, lineage, fold: f"run-{lineage}-{fold}")
    monkeypatch.setattr(train.live, "feeding", lambda *_: nullcontext())
    return made


def test_what_a_training_goes_on_from_is_named_by_its_lineage_and_outside_of_its_outputs(
    calls: list[dict[str, Any]]
) -> None:
    train.run("tiny")
    assert calls[0]["resume_file"] == "work/.resume/tiny/l1"
    assert calls[0]["tracking_run_id"] == "run-l1-None"
    assert Path("work/tiny/bundle/model.pt").read_text() == "weights"


def test_after_a_training_no_checkpoint_is_left_of_this_plan_or_another(calls: list[dict[str, Any]]) -> None:
    RESUME.mkdir(parents=True)
    (RESUME / "l0-cpu.pt").write_text("of another plan")
    Path("work/.resume/other").mkdir()
    train.run("tiny")
    assert not RESUME.exists()
    assert Path("work/.resume/other").is_dir()


@pytest.mark.parametrize("error", [InputError("training", found="nan", wanted="", remedy="", reason="nan-loss"),
                                   SystemExit(143)])
def test_a_training_that_did_not_end_leaves_its_checkpoint_and_no_bundle(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    write = train.run_training

    def run_training(root: Path, *, overrides: dict[str, Any]) -> None:
        write(root, overrides=overrides)
        raise error

    monkeypatch.setattr(train, "run_training", run_training)
    with pytest.raises(type(error)):
        train.run("tiny")
    assert [path.name for path in RESUME.iterdir()] == ["l1-cpu.pt"]
    assert list(Path("work/tiny").iterdir()) == []


def test_a_run_is_fed_while_a_network_is_trained_and_not_after_a_failure(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    @contextmanager
    def feeding(run_id: str | None) -> Iterator[None]:
        seen.append(run_id)
        try:
            yield
        finally:
            seen.append("finished")

    def run_training(*_: Any, **__: Any) -> None:
        seen.append("training")
        raise SystemExit(143)

    monkeypatch.setattr(train.live, "feeding", feeding)
    monkeypatch.setattr(train, "run_training", run_training)
    monkeypatch.setattr(train, "count_folds", lambda _: 2)
    with pytest.raises(SystemExit):
        train.run("tiny.fold1")
    assert seen == ["run-l1-1", "training", "finished"]


def test_bundles_of_killed_trainings_are_removed_and_nothing_of_other_stages(calls: list[dict[str, Any]]) -> None:
    left, other = Path("work/tiny/.aside-1"), Path("work/tiny/.aside-2")
    (left / "bundle/models").mkdir(parents=True)
    (left / "replaced").mkdir()
    (other / "predictions").mkdir(parents=True)
    train.run("tiny")
    assert not left.exists()
    assert other.exists()


class Memory:
    """A training that ends where a part has more patches than there is room for; it notes what was tried."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.tried: list[dict[str, Any]] = []
        self.room = room
        self.train = train.run_training
        monkeypatch.setattr(train, "assemble_bundle", lambda *_, changes, **__: self.tried.append(changes))
        monkeypatch.setattr(train, "run_training", self.run_training)

    def run_training(self, root: Path, *, overrides: dict[str, Any]) -> None:
        if self.tried[-1]["batch_size"] > self.room:
            # As it arrives through MONAI's expressions.
            raise RuntimeError("Failed to evaluate") from torch.OutOfMemoryError("CUDA out of memory")
        self.train(root, overrides=overrides)

    def parts(self) -> list[tuple[int, int]]:
        return [(changes["batch_size"], changes["accumulation"]) for changes in self.tried]


def test_out_of_memory_the_same_batch_is_trained_in_parts(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = Memory(monkeypatch, room=1)
    train.run("tiny")
    assert memory.parts() == [(4, 1), (2, 2), (1, 4)]
    assert capsys.readouterr().err == (
        "out of memory: training goes on with the same batch in 2 parts of 2\n"
        "out of memory: training goes on with the same batch in 4 parts of 1\n")
    assert Path("work/tiny/bundle/model.pt").exists()
    assert not RESUME.exists()


def test_what_fitted_is_remembered_by_a_training_that_is_killed(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(monkeypatch, room=2)

    def killed(root: Path, *, overrides: dict[str, Any]) -> None:
        raise SystemExit(143)

    memory.train = killed
    with pytest.raises(SystemExit):
        train.run("tiny")
    with pytest.raises(SystemExit):
        train.run("tiny")
    assert memory.parts() == [(4, 1), (2, 2), (2, 2)]


def test_no_room_for_a_single_patch_is_said(calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(monkeypatch, room=0)
    with pytest.raises(InputError, match=r"no memory for a single patch; .*`patch_size` or `width`") as caught:
        train.run("tiny")
    assert caught.value.reason == "out-of-memory"
    assert memory.parts() == [(4, 1), (2, 2), (1, 4)]


def test_another_error_is_not_taken_for_a_lack_of_memory(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_training(*_: Any, **__: Any) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(train, "run_training", run_training)
    with pytest.raises(RuntimeError, match="shapes differ"):
        train.run("tiny")


def test_of_several_processes_one_without_memory_asks_all_to_start_again(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = Memory(monkeypatch, room=2)
    monkeypatch.setattr(train, "ranks", lambda: 2)
    monkeypatch.setattr(train, "rank", lambda: 1)
    with pytest.raises(SystemExit) as caught:
        train.run("tiny")
    assert caught.value.code == train.START_AGAIN
    assert "out of memory on rank 1: " in capsys.readouterr().err
    train.run("tiny")  # finds what was written down
    assert memory.tried == [{"processes": 2, "batch_size": 4, "accumulation": 1},
                            {"processes": 2, "batch_size": 2, "accumulation": 2}]


@pytest.mark.parametrize(("planned", "told", "launched"), [
    (1, None, []), (2, None, [2]), (1, 3, [3]), (2, 1, []),
], ids=["one planned", "two planned", "three told", "two planned, one told"])
def test_processes_are_launched_as_planned_or_told(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, planned: int, told: int | None, launched: list[int]
) -> None:
    found: list[int] = []
    monkeypatch.setattr(train, "read_plan", lambda _: SimpleNamespace(processes=planned))
    monkeypatch.setattr(train, "launch", lambda _, processes: found.append(processes))
    train.run("tiny", processes=told)
    assert found == launched
    assert len(calls) == 1 - len(launched)


def test_machines_that_differ_do_not_train_together(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "of_all_ranks", lambda lineage: [lineage, "l2"])
    with pytest.raises(InputError, match="differ between the processes"):
        train.run("tiny")
    assert calls == []


def test_no_processes_are_refused(calls: list[dict[str, Any]]) -> None:
    with pytest.raises(InputError, match="--processes: 0; expected 1 or more"):
        train.run("tiny", processes=0)


def test_a_fold_is_trained_beside_the_others_and_goes_on_from_its_own_checkpoint(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "count_folds", lambda _: 2)
    other = RESUME / "fold0/l1-cpu.pt"
    other.parent.mkdir(parents=True)
    other.write_text("of a fold that was killed")
    train.run("tiny.fold1")
    assert calls[0]["fold"] == 1
    assert calls[0]["dataset_dir"] == "work/tiny/cache"
    assert calls[0]["history_file"] == "work/tiny/folds/fold1/history.csv"
    assert calls[0]["resume_file"] == "work/.resume/tiny/fold1/l1"
    assert Path("work/tiny/folds/fold1/bundle/model.pt").is_file()
    assert other.is_file()
    assert not (RESUME / "fold1").exists()


@pytest.mark.parametrize(("name", "folds", "message"), [
    ("tiny", 2, "tiny: a training .* expected one of tiny.fold0, tiny.fold1"),
    ("tiny.fold2", 2, "tiny.fold2: a training .* expected one of tiny.fold0, tiny.fold1"),
    ("tiny.fold0", 0, "tiny.fold0: a training .* expected one of tiny; run"),
    ("tiny.fold0", 3, "configs/trainings.yaml: the trainings tiny.fold0, tiny.fold1; expected tiny.fold0, tiny"),
])
def test_a_training_that_the_data_or_dvc_does_not_know_is_refused_before_it_begins(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, name: str, folds: int, message: str
) -> None:
    write_trainings("tiny", 2, active=["tiny"])
    monkeypatch.setattr(train, "count_folds", lambda _: folds)
    with pytest.raises(InputError, match=message):
        train.run(name)
    assert calls == []

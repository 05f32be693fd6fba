"""Killed, stopped or spoilt, a training loses nothing: it goes on and ends with the same bytes."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.networks.nets import UNet
from tiny_training import BATCH, EPOCH_LENGTH, EPOCHS, Fault, Training, make_training

from pipeline.engine import checkpoints as module
from pipeline.engine.cache import read_cached_cases
from pipeline.engine.checkpoints import Checkpoints, PatchOrder
from pipeline.engine.inferers import WindowInferer
from pipeline.engine.patches import PatchDataset

ITERATIONS = EPOCHS * EPOCH_LENGTH
NEVER_S = 3600.0


@pytest.fixture(scope="module", params=[3, 2], ids=["3d", "2d"])
def dims(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def whole(dims: int, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A training that nothing happened to, and that wrote no checkpoint."""
    training = make_training(tmp_path_factory.mktemp("whole"), dims=dims, interval_s=NEVER_S)
    assert training.run().exit_code == 0
    assert not training.checkpoint.exists()
    return training


def assert_ended_alike(training: Training, whole: Training) -> None:
    assert training.history.read_bytes() == whole.history.read_bytes()
    assert training.weights.read_bytes() == whole.weights.read_bytes()
    for name in ("configs/inference.yaml", "docs/largest_component.json"):
        assert (training.root / "bundle" / name).read_bytes() == (whole.root / "bundle" / name).read_bytes()
    digest = training.weights.with_name("model.pt.sha256")
    assert digest.read_text() == whole.weights.with_name("model.pt.sha256").read_text()


def random_kills(seed: int, count: int) -> list[Fault]:
    """Draws in which iterations, and where within them, a process is killed."""
    rng = np.random.default_rng(seed)
    places = [("ITERATION_STARTED", False), ("BACKWARD_COMPLETED", False), ("ITERATION_COMPLETED", False),
              ("ITERATION_COMPLETED", True), ("EPOCH_COMPLETED", False), ("EPOCH_COMPLETED", True)]
    kills = []
    for iteration in sorted(rng.choice(np.arange(1, ITERATIONS + 1), count, replace=False).tolist()):
        # An epoch is completed in its last iteration alone.
        possible = places if iteration % EPOCH_LENGTH == 0 else places[:4]
        event, is_last = possible[rng.integers(len(possible))]
        kills.append(Fault(event, iteration, is_last=is_last))
    return kills


def test_killed_at_random_places_a_training_ends_as_if_it_had_not_been(
    dims: int, whole: Training, tmp_path: Path
) -> None:
    training = make_training(tmp_path, dims=dims)
    for kill in random_kills(seed=dims, count=5):
        assert training.run(kill).exit_code == -signal.SIGKILL, kill
        assert not training.weights.exists()
    ended = training.run()
    assert ended.exit_code == 0
    assert "training goes on from iteration" in ended.output.splitlines()[0]
    assert_ended_alike(training, whole)


def test_what_a_schedule_may_choose_is_resumed_to_the_same_bytes_too(tmp_path: Path) -> None:
    chosen = {"precision": "bfloat16", "channels_last": True, "accumulation": 2, "threads": 1}
    whole = make_training(tmp_path / "whole", interval_s=NEVER_S, **chosen)
    assert whole.run().exit_code == 0
    training = make_training(tmp_path / "killed", **chosen)
    # In the middle of a step of two batches: the gradients of the first are computed again.
    assert training.run(Fault("BACKWARD_COMPLETED", 6, is_last=False)).exit_code == -signal.SIGKILL
    ended = training.run()
    assert "training goes on from iteration 2 of 12" in ended.output.splitlines()[0]
    assert_ended_alike(training, whole)


@pytest.mark.parametrize("dims", [3], indirect=True)
def test_killed_while_a_checkpoint_is_written_it_goes_on_from_the_one_before(
    dims: int, whole: Training, tmp_path: Path
) -> None:
    training = make_training(tmp_path, dims=dims)
    assert training.run(Fault("ITERATION_STARTED", 7, "writing")).exit_code == -signal.SIGKILL
    assert list(training.checkpoint.parent.glob(".aside-*"))
    ended = training.run()
    assert ended.output.startswith("training goes on from iteration 6 of 12\n")
    assert not list(training.checkpoint.parent.glob(".aside-*"))
    assert_ended_alike(training, whole)


@pytest.mark.parametrize(
    ("dims", "event", "iteration", "number", "reached", "rows"),
    # In the middle of an epoch; in its last iteration, so that validation and row come later; before its
    # only volume is validated, so that the validation is left and done again.
    [(3, "BACKWARD_COMPLETED", 6, signal.SIGTERM, 6, 1), (3, "ITERATION_STARTED", 8, signal.SIGINT, 8, 1),
     (2, "EPOCH_COMPLETED", 12, signal.SIGTERM, 12, 2)],
    indirect=["dims"],
)
def test_asked_to_stop_a_training_ends_its_iteration_and_says_how_to_go_on(
    whole: Training, dims: int, tmp_path: Path, event: str, iteration: int, number: signal.Signals, reached: int,
    rows: int,
) -> None:
    training = make_training(tmp_path, dims=dims, interval_s=NEVER_S)
    stopped = training.run(Fault(event, iteration, number))
    assert stopped.exit_code == 128 + number
    assert stopped.output.splitlines()[-1] == (
        f"training stopped; the same command goes on from iteration {reached} of 12")
    assert len(training.history.read_text().splitlines()) == 1 + rows
    assert not training.weights.exists()
    state = torch.load(training.checkpoint, weights_only=True)
    assert state["parts"]["trainer"]["iteration"] == reached

    # Killed before the next checkpoint: the old one serves again.
    if reached < 11:
        assert training.run(Fault("ITERATION_COMPLETED", 11)).exit_code == -signal.SIGKILL
    ended = training.run()
    assert ended.output.startswith(f"training goes on from iteration {reached} of 12\n")
    assert_ended_alike(training, whole)


def test_a_loss_of_nan_names_the_cases_and_leaves_the_last_good_state(tmp_path: Path) -> None:
    training = make_training(tmp_path)
    # Spoilt by the sixth step, whose own loss was finite; so the seventh loss is not.
    spoilt = training.run(Fault("ITERATION_COMPLETED", 6, "weights"))
    assert spoilt.exit_code == 1
    dataset = PatchDataset(read_cached_cases(tmp_path / "cache", "train"), patch_size=(16, 16, 16), slice_axis=None,
                           length=ITERATIONS * BATCH, foreground_fraction=0.75, seed=5, transforms=[])
    cases = ", ".join(sorted({dataset[i]["case"] for i in range(6 * BATCH, 7 * BATCH)}))
    assert f"loss nan in iteration 7, on patches of {cases}; expected a finite loss" in spoilt.output
    state = torch.load(training.checkpoint, weights_only=True)
    assert state["parts"]["trainer"]["iteration"] == 5
    assert all(bool(value.isfinite().all()) for value in state["parts"]["network"].values())


def test_the_average_is_what_is_validated_last_and_kept(tmp_path: Path) -> None:
    training = make_training(tmp_path)
    training.run()
    weights = torch.load(training.weights, weights_only=True)
    parts = torch.load(training.checkpoint, weights_only=True)["parts"]
    assert all(torch.equal(weights[name], value) for name, value in parts["average"]["weights"].items())
    assert not torch.equal(next(iter(weights.values())), next(iter(parts["network"].values())))

    network = UNet(3, 1, 2, channels=[4, 8], strides=[2], norm="instance", dropout=0.2).eval()
    network.load_state_dict(weights)
    (case,) = read_cached_cases(tmp_path / "cache", "validation")
    with torch.no_grad():
        scores = WindowInferer((16, 16, 16), slice_axis=None)(torch.from_numpy(case.image)[None, None], network)[0]
    found, truth = (scores[1] > scores[0]).numpy(), case.label > 0
    dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    # Validated after every second epoch, and after the third because it is the last.
    validated = [row.split(",")[3] for row in training.history.read_text().splitlines()[1:]]
    assert [bool(value) for value in validated] == [False, True, True]
    assert float(validated[2]) == pytest.approx(dice, abs=1e-6)


class Toy:
    """A trainer that adds 1 to its number in each of six iterations, with a checkpoint after each."""

    def __init__(self, stem: Path | None, *, interval_s: float = 0.0) -> None:
        self.value = 0
        self.trainer = Engine(self._step)
        self.order = PatchOrder(12, batch_size=2)
        self.checkpoints = Checkpoints(None if stem is None else str(stem), device=torch.device("cpu"),
                                       parts={"toy": self}, order=self.order, interval_s=interval_s)
        self.checkpoints.attach(self.trainer)

    def _step(self, _: Engine, __: Any) -> None:
        self.value += 1

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]

    def run(self, *, stop_after: int | None = None) -> None:
        if stop_after is not None:
            self.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=stop_after),
                                           lambda engine: engine.terminate())
        # As MONAI's trainers do: they know their length before they run.
        self.trainer.state.max_epochs, self.trainer.state.epoch_length = 2, 3
        self.trainer.run([0] * 3, max_epochs=2)


@pytest.mark.parametrize(("key", "value", "said", "patches_left"), [
    ("key", 6, "training goes on from iteration 4 of 6\n", 4), ("other", 106, "", 12),
], ids=["the same key: what is left", "another key: all"])
def test_only_a_checkpoint_of_the_same_key_is_used(
    key: str, value: int, said: str, patches_left: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Toy(tmp_path / "key").run(stop_after=4)
    toy = Toy(tmp_path / key)
    toy.value = 100
    toy.run()
    assert toy.value == value
    assert capsys.readouterr().out == said
    assert list(toy.order) == list(range(12 - patches_left, 12))


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def with_one_bit_changed(content: bytes) -> bytes:
    middle = content.index(b"value")
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [truncated, with_one_bit_changed, lambda _: b""])
def test_a_damaged_checkpoint_is_named_and_training_starts_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Any
) -> None:
    Toy(tmp_path / "key").run(stop_after=4)
    path = tmp_path / "key-cpu.pt"
    path.write_bytes(damage(path.read_bytes()))
    toy = Toy(tmp_path / "key")
    toy.run()
    assert toy.value == 6
    assert list(toy.order) == list(range(12))
    said = capsys.readouterr().err
    assert said.startswith(f"{path}: damaged checkpoint (")
    assert said.endswith("); training starts anew\n")


def test_a_disk_without_room_does_not_end_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    toy = Toy(tmp_path / "key")
    toy.run()
    assert toy.value == 6
    assert "no checkpoint ([Errno 28] No space left on device); training goes on" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_are_written_at_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    toy = Toy(tmp_path / "key", interval_s=60)
    written = []

    @toy.trainer.on(Events.ITERATION_STARTED)
    def let_time_pass(_: Engine) -> None:
        written.append(toy.checkpoints.saved_step)
        clock[0] += 25

    toy.run()
    # After 75 s, in the third iteration, and after 150 s, in the sixth.
    assert [*written, toy.checkpoints.saved_step] == [0, 0, 0, 3, 3, 3, 6]


def test_without_a_place_nothing_is_written_and_signals_are_left_alone(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    toy = Toy(None)
    with toy.checkpoints.stopping_on_signals():
        assert signal.getsignal(signal.SIGTERM) is before
        toy.run()
    assert toy.value == 6
    assert list(tmp_path.iterdir()) == []


def test_a_second_interrupt_ends_the_training_at_once(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    checkpoints = Toy(tmp_path / "key").checkpoints

    def interrupt_twice() -> None:
        with checkpoints.stopping_on_signals():
            os.kill(os.getpid(), signal.SIGINT)
            assert checkpoints.signal == signal.SIGINT
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupt_twice()
    assert signal.getsignal(signal.SIGINT) is before


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    def draws() -> list[float]:
        return [module.random.random(), float(np.random.rand()), float(torch.rand(1))]

    Toy(tmp_path / "key").run(stop_after=4)
    expected = draws()
    draws()
    toy = Toy(tmp_path / "key")
    found: list[float] = []
    toy.trainer.add_event_handler(Events.STARTED, lambda _: found.extend(draws()))
    toy.run()
    assert found == expected

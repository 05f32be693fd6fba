"""What of a training's time is the network's: by a clock that moves only when it is told to."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from pipeline.engine import throughput as module
from pipeline.engine.throughput import Throughput

BATCH = 4
DATA_S, AUGMENTING_S, AVERAGING_S, CHECKPOINT_S, VALIDATION_S = 1.25, 0.5, 0.25, 100.0, 1000.0


class Trained:
    """A trainer of epochs of two iterations in whose networks the given seconds pass."""

    def __init__(self, network_s: list[float], *, device: str = "cpu", accumulation: int = 1) -> None:
        self.now_s = 0.0
        self.network_s = network_s
        self.published: list[tuple[int, dict[str, float]]] = []
        self.trainer = Engine(self._step)
        self.trainer.register_events(*IterationEvents)
        self.trainer.prepare_batch = self._prepare
        self.throughput = Throughput(device=torch.device(device), accumulation=accumulation, clock=lambda: self.now_s,
                                     publish=lambda values, step: self.published.append((step, values)))
        self._pass_when(Events.ITERATION_COMPLETED, AVERAGING_S)
        self.throughput.attach(self.trainer)
        self._pass_when(Events.ITERATION_COMPLETED, CHECKPOINT_S)
        self._pass_when(Events.EPOCH_COMPLETED, VALIDATION_S)

    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    def run(self, epochs: int) -> None:
        self.trainer.run(self, max_epochs=epochs, epoch_length=2)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        while True:
            self.wait(DATA_S)
            yield {"image": torch.zeros(BATCH, 1, 2, 2)}

    def _pass_when(self, event: Any, seconds: float) -> None:
        self.trainer.add_event_handler(event, lambda _: self.wait(seconds))

    def _prepare(self, batch: dict[str, torch.Tensor], device: str) -> torch.Tensor:
        assert device == "here"
        self.wait(AUGMENTING_S)
        return batch["image"]

    def _step(self, engine: Engine, batch: dict[str, torch.Tensor]) -> None:
        assert engine.prepare_batch(batch, device="here") is batch["image"]
        self.wait(self.network_s[engine.state.iteration - 1])
        engine.fire_event(IterationEvents.MODEL_COMPLETED)


def test_each_epoch_has_the_networks_share_without_validation_and_checkpoints(
    capsys: pytest.CaptureFixture[str]
) -> None:
    trained = Trained([2.0, 6.0, 14.0, 14.0])
    trained.run(2)
    # An iteration is 1.25 + 0.5 + 0.25 = 2 s and the network's: (2 + 2) + (2 + 6) = 12 s, then 2 * (2 + 14) = 32 s.
    assert trained.published == [(2, {"patches_per_second": 8 / 12, "network_share": 8 / 12}),
                                 (4, {"patches_per_second": 8 / 32, "network_share": 28 / 32})]
    # (8 + 28) / 44 = 0.818, and 16 patches in 44 s.
    assert capsys.readouterr().out == "training: 82% of 44 s in the network, 0.4 patches a second\n"


def test_an_iteration_that_makes_half_a_step_is_half_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    trained = Trained([2.0] * 4, accumulation=2)
    trained.run(2)
    assert [step for step, _ in trained.published] == [1, 2]


def test_patches_of_all_ranks_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ranks", lambda: 3)
    trained = Trained([2.0, 2.0])
    trained.run(1)
    assert trained.published == [(2, {"patches_per_second": 3 * 8 / 8, "network_share": 4 / 8})]


def test_of_an_epoch_that_was_only_validated_there_is_nothing_to_say(capsys: pytest.CaptureFixture[str]) -> None:
    trained = Trained([])
    trained.trainer.fire_event(Events.EPOCH_COMPLETED)
    trained.trainer.fire_event(Events.COMPLETED)
    assert trained.published == []
    assert capsys.readouterr().out == ""


def test_a_gpu_is_waited_for_once_an_epoch_and_its_own_time_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Event:
        """A mark in the queue of a GPU that takes 3.5 s for each network; the host is done with it at once."""

        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            assert stream == "stream of cuda:1"
            marks.append(self)
            self.at_s = 3.5 * (len(marks) // 2) + 0.5 * ((len(marks) + 1) // 2)

        def synchronize(self) -> None:
            trained.wait(4.0 if not waits else 0.0)
            waits.append(trained.trainer.state.iteration)

        def elapsed_time(self, end: "Event") -> float:
            return 1000 * (end.at_s - self.at_s)

    marks: list[Event] = []
    waits: list[int] = []
    monkeypatch.setattr(module.torch.cuda, "Event", Event)
    monkeypatch.setattr(module.torch.cuda, "current_stream", lambda device: f"stream of {device}")
    trained = Trained([0.0, 0.0], device="cuda:1")
    trained.run(1)
    assert waits == [2, 2]  # none before the last iteration is over
    # The host needs 2 s for each iteration and then waits for 4 s; the GPU needs 3.5 s for each.
    assert trained.published == [(2, {"patches_per_second": 8 / 8, "network_share": 7 / 8})]

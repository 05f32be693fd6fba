import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents

from pipeline.engine import history as module
from pipeline.engine.history import History, ProgressBar
from pipeline.records.errors import InputError


class Watched:
    """A trainer of epochs of three iterations whose losses are given, validated in even epochs."""

    def __init__(self, path: Path, losses: list[Any], labels: tuple[str, ...] = ()) -> None:
        self.published: list[tuple[int, dict[str, float]]] = []
        self.evaluator = Engine(lambda *_: None)
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
        self.history = History(path, evaluator=self.evaluator, optimizer=optimizer,
                               publish=lambda values, step: self.published.append((step, values)), labels=labels)
        self.losses = losses
        self.trainer = Engine(self._step)
        self.trainer.register_events(*IterationEvents)
        self.history.attach(self.trainer)

    def _step(self, engine: Engine, _: Any) -> None:
        iteration = engine.state.iteration
        engine.state.batch = {"case": [f"case_{iteration}", "case_x"]}
        engine.state.output = {"loss": torch.as_tensor(self.losses[iteration - 1])}
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        if iteration % 6 == 0:
            self.evaluator.state.epoch = engine.state.epoch
            self.evaluator.state.metrics = {"validation_dice": 0.1 * engine.state.epoch}

    def run(self, epochs: int) -> None:
        self.trainer.run([0] * 3, max_epochs=epochs)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_an_epoch_is_a_row_with_its_mean_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watched = Watched(tmp_path / "history.csv", [3.0, 2.0, 1.0, 1.0, 1.0, 0.25])
    watched.run(2)
    first, second = rows(tmp_path / "history.csv")
    assert first == {"iteration": "3", "epoch": "1", "train_loss": "2.0", "validation_dice": "", "learning_rate": "0.5"}
    assert second == {"iteration": "6", "epoch": "2", "train_loss": "0.75", "validation_dice": "0.2",
                      "learning_rate": "0.5"}
    assert watched.published == [
        (3, {"train_loss": 2.0, "learning_rate": 0.5}),
        (6, {"train_loss": 0.75, "learning_rate": 0.5, "validation_dice": 0.2}),
    ]
    assert capsys.readouterr().out == "epoch 1/2: loss 2.0000\nepoch 2/2: loss 0.7500, validation Dice 0.2000\n"


def test_a_restored_history_writes_and_publishes_what_was(tmp_path: Path) -> None:
    first = Watched(tmp_path / "history.csv", [3.0, 2.0, 1.0, 4.0])
    with pytest.raises(IndexError):  # ends in the second epoch
        first.run(2)
    state = first.history.state_dict()
    second = Watched(tmp_path / "again.csv", [9.0, 9.0, 9.0, 9.0, 1.0, 1.0])
    second.history.load_state_dict(state)
    assert rows(tmp_path / "again.csv") == rows(tmp_path / "history.csv")
    assert second.published == first.published

    second.trainer.load_state_dict({"iteration": 4, "epoch_length": 3, "max_epochs": 2})
    second.trainer.run([0] * 2)
    # (4 + 1 + 1) / 3: the loss before the interruption counts.
    assert [row["train_loss"] for row in rows(tmp_path / "again.csv")] == ["2.0", "2.0"]


def test_each_label_has_its_dice_and_recall_over_the_cases_that_have_it(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "history.csv", [1.0] * 6, labels=("organ", "lesion", "cyst"))
    nan = float("nan")
    watched.evaluator.state.metric_details = {
        "validation_dice": torch.tensor([[0.5, nan, nan], [1.0, 0.25, nan]]),
        # True positives, false positives, true negatives, false negatives of each label, case by case.
        "validation_recall": torch.tensor([[[3.0, 1, 5, 1], [0, 2, 8, 0], [0, 0, 10, 0]],
                                           [[5.0, 0, 5, 0], [1, 1, 5, 3], [0, 0, 10, 0]]]),
    }
    watched.run(2)
    first, second = rows(tmp_path / "history.csv")
    assert first["validation_dice.organ"] == first["validation_recall.lesion"] == ""
    # Of the organ (0.5 + 1) / 2 and (3/4 + 5/5) / 2; of the lesion one case, 1/4; of the cyst none.
    assert {name: second[name] for name in second if "." in name} == {
        "validation_dice.organ": "0.75", "validation_dice.lesion": "0.25", "validation_dice.cyst": "",
        "validation_recall.organ": "0.875", "validation_recall.lesion": "0.25", "validation_recall.cyst": ""}
    assert watched.published[1][1]["validation_recall.organ"] == 0.875
    assert "validation_dice.cyst" not in watched.published[1][1]


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_iteration_cases_and_remedy(tmp_path: Path, loss: float) -> None:
    watched = Watched(tmp_path / "history.csv", [1.0, loss, 1.0])
    with pytest.raises(InputError, match=r"iteration 2, on patches of case_2, case_x; .*learning_rate") as caught:
        watched.run(1)
    assert caught.value.reason == "nan-loss"
    with pytest.raises(InputError, match="iteration 2"):  # so that no checkpoint is written after it
        watched.history.state_dict()


def test_on_an_accelerator_the_loss_is_read_now_and_then_and_the_right_iteration_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnDevice:
        """A loss that says it is elsewhere; reading it is counted."""

        device = torch.device("cuda")

        def __init__(self, value: float) -> None:
            self.value = value

        def detach(self) -> "OnDevice":
            return self

    reads: list[int] = []

    def stack(losses: list[OnDevice]) -> torch.Tensor:
        reads.append(len(losses))
        return torch.tensor([loss.value for loss in losses])

    monkeypatch.setattr(module.torch, "stack", stack)
    monkeypatch.setattr(module.torch, "as_tensor", lambda value: value)
    monkeypatch.setattr(module, "READ_EVERY", 2)
    watched = Watched(tmp_path / "history.csv", [OnDevice(1.0)] * 4 + [OnDevice(float("nan"))] * 2)
    with pytest.raises(InputError, match="iteration 5, on patches of case_5"):
        watched.run(2)
    # Two, the rest of the first epoch, the two that hold the bad one.
    assert reads == [2, 1, 2]


def test_the_bar_shows_loss_and_dice_and_begins_where_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bar:
        def __init__(self, **options: Any) -> None:
            self.options, self.shown, self.count = options, [], 0
            bars.append(self)

        def set_postfix(self, values: dict[str, str], **_: bool) -> None:
            self.shown.append(values)

        def update(self) -> None:
            self.count += 1

        def close(self) -> None:
            self.shown.append({"closed": "yes"})

    bars: list[Bar] = []
    watched = Watched(tmp_path / "history.csv", [1.0] * 6 + [0.5] * 3)
    monkeypatch.setattr(module, "tqdm", type("Tqdm", (Bar,), {"external_write_mode": module.tqdm.external_write_mode}))
    ProgressBar(watched.history).attach(watched.trainer)
    watched.trainer.load_state_dict({"iteration": 3, "epoch_length": 3, "max_epochs": 3})
    watched.trainer.run([0] * 3)
    (bar,) = bars
    assert bar.options["total"] == 9
    assert bar.options["initial"] == 3
    assert bar.options["disable"] is None  # tqdm: only on a terminal
    assert bar.count == 6
    assert bar.shown[0] == {"loss": "1.0000"}
    assert bar.shown[-2:] == [{"loss": "0.5000", "Dice": "0.2000"}, {"closed": "yes"}]

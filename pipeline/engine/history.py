"""Training curves as a table that grows line by line, the watch over the loss, and a bar for those who look on."""

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from tqdm import tqdm

from pipeline.engine.ranks import is_writer, of_all_ranks, ranks
from pipeline.records.errors import InputError
from pipeline.records.files import written_aside

COLUMNS = ("iteration", "epoch", "train_loss", "validation_dice", "learning_rate")
# Of each label as well: the validation's metrics that the evaluator keeps case by case.
DICE, RECALL = "validation_dice", "validation_recall"
Publish = Callable[[dict[str, float], int], None]
# Iterations between two readings of the loss on an accelerator: each makes the host wait for it.
READ_EVERY = 10


class History:
    """Ignite handler: one row of `history.csv` an epoch, and the same numbers to `publish` while training runs.

    `train_loss` is the mean over the epoch's steps, and iterations are steps, not the
    batches that a step may be made of; `validation_dice` is empty in epochs without validation.
    Attach it after the ValidationHandler, so that an epoch's validation is over when its row is written. The loss is
    read in every iteration on a CPU and every `READ_EVERY` iterations elsewhere.

    Args:
        path: of the table.
        evaluator: of the validation; with `labels` it has the metrics `DICE` and `RECALL`.
        optimizer: whose learning rate is noted.
        publish: gets the numbers of each row.
        labels: in the order of the network's classes; each gets columns ``validation_dice.<label>`` and
            ``validation_recall.<label>``, means over the cases whose truth has it, empty where none has.

    Raises:
        InputError: ``nan-loss``, in the iteration that reads a loss that is not finite.
    """

    def __init__(
        self, path: str | Path, *, evaluator: Engine, optimizer: torch.optim.Optimizer, publish: Publish,
        labels: Sequence[str] = (), accumulation: int = 1,
    ) -> None:
        self.path = Path(path)
        self.evaluator = evaluator
        self.optimizer = optimizer
        self.publish = publish
        self.labels = tuple(labels)
        self.columns = (*COLUMNS, *(f"{metric}.{label}" for metric in (DICE, RECALL) for label in self.labels))
        self.accumulation = accumulation
        self.rows: list[dict[str, float]] = []
        self.losses: list[float] = []  # of the steps of the running epoch
        self.parts: list[float] = []  # of the running step
        # Step, ids of the cases in this rank's batch, and on the device its loss and, of several ranks, its scores.
        self.unread: list[tuple[int, list[str], torch.Tensor, torch.Tensor | None]] = []

    def attach(self, engine: Engine) -> None:
        """Registers the handler with the trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._note_loss)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._add_row)

    def state_dict(self) -> dict[str, Any]:
        """Returns the rows so far and the losses of the running epoch, all of them read and finite.

        Raises:
            InputError: ``nan-loss``.
        """
        self._read_losses()
        return {"rows": [dict(row) for row in self.rows], "losses": list(self.losses)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned, into the table and the published curves as well."""
        self.rows, self.losses, self.parts, self.unread = list(state["rows"]), list(state["losses"]), [], []
        self._write_table()
        for row in self.rows:
            self._publish(row)

    def latest(self) -> dict[str, str]:
        """Returns the last loss and validation Dice that are known, as text for a bar."""
        dice = next((row["validation_dice"] for row in reversed(self.rows) if "validation_dice" in row), None)
        loss = self.losses[-1] if self.losses else self.rows[-1]["train_loss"] if self.rows else None
        known = {"loss": loss, "Dice": dice}
        return {name: f"{value:.4f}" for name, value in known.items() if value is not None}

    def _start(self, _: Engine) -> None:
        self._write_table()

    def _note_loss(self, engine: Engine) -> None:
        # Before the backward pass: weights that a loss of NaN would spoil are not touched yet on a CPU.
        loss, iteration = engine.state.output["loss"].detach(), engine.state.iteration
        step = (iteration - 1) // self.accumulation + 1
        # The loss is that of all ranks; whose cases it is that spoilt it, their own scores tell.
        is_sound = torch.isfinite(engine.state.output["pred"].detach()).all() if ranks() > 1 else None
        self.unread.append((step, list(engine.state.batch["case"]), loss, is_sound))
        is_last = iteration % engine.state.epoch_length == 0  # validation would run on spoilt weights
        if loss.device.type == "cpu" or len(self.unread) >= READ_EVERY or is_last:
            self._read_losses()

    def _read_losses(self) -> None:
        if not self.unread:
            return
        values = torch.stack([loss for _, _, loss, _ in self.unread]).tolist()
        for (step, cases, _, is_sound), value in zip(self.unread, values, strict=True):
            if not math.isfinite(value):
                raise InputError("training", found=f"loss {value} in iteration {step}, on patches of "
                                                   f"{_names_to_blame(cases, is_sound)}",
                                 wanted="a finite loss", reason="nan-loss",
                                 remedy="look at these cases, or lower `learning_rate` in bundle.yaml")
            self._add_part(value)
        self.unread = []

    def _add_part(self, loss: float) -> None:
        self.parts.append(loss)
        if len(self.parts) == self.accumulation:
            self.losses.append(sum(self.parts) / self.accumulation)
            self.parts = []

    def _add_row(self, engine: Engine) -> None:
        if engine.should_terminate:
            return  # while it was validated: this epoch ends when training goes on
        state, train_loss = engine.state, sum(self.losses) / len(self.losses)
        row = {"iteration": state.iteration // self.accumulation, "epoch": state.epoch, "train_loss": train_loss,
               "learning_rate": self.optimizer.param_groups[0]["lr"]}
        # The evaluator's epoch is the trainer's where validation ran in this one.
        if self.evaluator.state.epoch == state.epoch:
            row["validation_dice"] = float(self.evaluator.state.metrics["validation_dice"])
            row |= self._by_label()
        self.losses = []
        self.rows.append(row)
        self._write_table()
        self._publish(row)
        dice = f", validation Dice {row['validation_dice']:.4f}" if "validation_dice" in row else ""
        with tqdm.external_write_mode():  # around a bar, where there is one
            print(f"epoch {state.epoch}/{state.max_epochs}: loss {train_loss:.4f}{dice}", flush=True)

    def _by_label(self) -> dict[str, float]:
        """Returns each label's mean Dice and recall in the last validation, where they are defined."""
        if not self.labels:
            return {}
        details = self.evaluator.state.metric_details
        counts = details[RECALL].double()  # cases, labels, and their true and false positives, true and false negatives
        found, missed = counts[..., 0], counts[..., 3]
        cases = {DICE: details[DICE].double(), RECALL: found / (found + missed)}
        means = {f"{metric}.{label}": float(values[:, number].nanmean()) for metric, values in cases.items()
                 for number, label in enumerate(self.labels)}
        return {name: value for name, value in means.items() if math.isfinite(value)}

    def _write_table(self) -> None:
        if not is_writer():
            return
        with written_aside(self.path) as aside, aside.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)

    def _publish(self, row: dict[str, float]) -> None:
        values = {name: value for name, value in row.items() if name not in ("iteration", "epoch")}
        self.publish(values, int(row["iteration"]))


def _names_to_blame(cases: list[str], is_sound: torch.Tensor | None) -> str:
    """Returns the cases of the ranks whose scores are not finite, or of all where all are; all ranks call it."""
    found = of_all_ranks((cases, is_sound is not None and bool(is_sound)))
    blamed = [names for names, is_sound_there in found if not is_sound_there] or [names for names, _ in found]
    return ", ".join(sorted({name for names in blamed for name in names}))


class ProgressBar:
    """Ignite handler: on a terminal, a bar over all steps with the loss, the last validation Dice, the time left.

    Elsewhere it shows nothing.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        self.bar: tqdm[Any] | None = None

    def attach(self, engine: Engine) -> None:
        """Registers the handler with the trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        for event in (Events.COMPLETED, Events.TERMINATE):
            engine.add_event_handler(event, self._close)

    def _advance(self, engine: Engine) -> None:
        accumulation = self.history.accumulation
        if engine.state.iteration % accumulation:
            return
        if self.bar is None:
            total = engine.state.max_epochs * engine.state.epoch_length // accumulation
            # From where a resumed training goes on, so that the time left is that of the rest.
            self.bar = tqdm(total=total, initial=engine.state.iteration // accumulation - 1,
                            disable=None if is_writer() else True, dynamic_ncols=True)
        self.bar.set_postfix(self.history.latest(), refresh=False)
        self.bar.update()

    def _close(self, _: Engine) -> None:
        if self.bar is not None:
            self.bar.close()

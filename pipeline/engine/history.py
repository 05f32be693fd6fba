"""Training curves as a table that grows line by line."""

import csv
import math
from collections.abc import Callable
from pathlib import Path

import torch
from ignite.engine import Engine, Events

from pipeline.records.errors import InputError

COLUMNS = ("iteration", "epoch", "train_loss", "validation_dice", "learning_rate")
Publish = Callable[[dict[str, float], int], None]


class History:
    """Ignite handler: one row of `history.csv` an epoch, and the same numbers to `publish` while training runs.

    `train_loss` is the mean over the epoch's iterations; `validation_dice` is empty in epochs without validation.
    Attach it after the ValidationHandler, so that an epoch's validation is over when its row is written.
    """

    def __init__(
        self, path: str | Path, *, evaluator: Engine, optimizer: torch.optim.Optimizer, publish: Publish
    ) -> None:
        self.path = Path(path)
        self.evaluator = evaluator
        self.optimizer = optimizer
        self.publish = publish
        self.losses: list[float] = []
        self.validated_epoch = 0

    def attach(self, engine: Engine) -> None:
        """Registers the handler with the trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note_loss)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write_row)

    def _start(self, _: Engine) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerow(COLUMNS)

    def _note_loss(self, engine: Engine) -> None:
        self.losses.append(float(engine.state.output[0]["loss"]))

    def _write_row(self, engine: Engine) -> None:
        row = {"train_loss": sum(self.losses) / len(self.losses), "learning_rate": self.optimizer.param_groups[0]["lr"]}
        self.losses = []
        if not math.isfinite(row["train_loss"]):
            raise InputError("training", found=f"loss {row['train_loss']} in epoch {engine.state.epoch}",
                             wanted="a finite loss", remedy="lower `learning_rate` in bundle.yaml", reason="nan-loss")
        # The evaluator's epoch counts trainer epochs when validation ran in this one.
        if self.evaluator.state.epoch == engine.state.epoch and self.validated_epoch != engine.state.epoch:
            self.validated_epoch = engine.state.epoch
            row["validation_dice"] = float(self.evaluator.state.metrics["validation_dice"])
        with self.path.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            values = {**row, "iteration": engine.state.iteration, "epoch": engine.state.epoch}
            writer.writerow([values.get(column, "") for column in COLUMNS])
        self.publish(row, engine.state.iteration)
        dice = f", validation Dice {row['validation_dice']:.4f}" if "validation_dice" in row else ""
        print(f"epoch {engine.state.epoch}/{engine.state.max_epochs}: loss {row['train_loss']:.4f}{dice}", flush=True)

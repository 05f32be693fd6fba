"""Optimiser steps, which are several iterations of the trainer each where gradients are accumulated.

All that counts in a training counts steps, so that a batch in two halves is as long a training as the whole batch. It
is the same one only for losses that are means over patches; an overlap over the batch is one over each half.
"""

from typing import Any

from ignite.engine import Engine, Events
from monai.handlers import LrScheduleHandler


def step_completed(accumulation: int) -> Any:
    """Returns the event of the last of the `accumulation` iterations that make a step."""
    return Events.ITERATION_COMPLETED(every=accumulation)


class LearningRates(LrScheduleHandler):
    """Ignite handler: the next learning rate after each step.

    Args:
        lr_scheduler: of torch, its length in steps.
        accumulation: iterations that make a step.
    """

    def __init__(self, lr_scheduler: Any, *, accumulation: int = 1) -> None:
        super().__init__(lr_scheduler, print_lr=False, epoch_level=False)
        self.accumulation = accumulation

    def attach(self, engine: Engine) -> None:
        """Registers the handler with the trainer."""
        engine.add_event_handler(step_completed(self.accumulation), self)

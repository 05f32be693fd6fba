"""The running average of a network's weights: what is validated while training goes on, and kept at its end."""

from typing import Any

import torch
from ignite.engine import Engine
from ignite.handlers import EMAHandler

from pipeline.engine.steps import step_completed

FIRST_MOMENTUM = 0.2
WARMUP_SHARE = 10  # of the steps: one in ten
# Times its inverse that the momentum fits into a training, at least: what was before the last sixth hardly counts.
SHORTEST = 6
LARGEST_MOMENTUM = 0.5


class WeightAverage(EMAHandler):
    """Ignite handler: after each step ``average = (1 - m) * average + m * weights``, buffers are copied.

    The momentum m falls from 0.2 to its final value over the first tenth of the steps, so that the random
    weights of the beginning are soon forgotten; `final_momentum` says what that value is. The average is `ema_model`.
    Attach it before anything that uses the average of the same step.

    Source: Polyak and Juditsky 1992, doi:10.1137/0330046, with exponential weights.

    Args:
        network: on its device; the average is a copy of it there.
        momentum: at the end of the warm-up, between 0 and 1.
        iterations: optimiser steps of the whole training.
        accumulation: iterations of the trainer that make a step.
    """

    def __init__(
        self, network: torch.nn.Module, *, momentum: float, iterations: int, accumulation: int = 1
    ) -> None:
        super().__init__(network, momentum=final_momentum(momentum, iterations), momentum_warmup=FIRST_MOMENTUM,
                         warmup_iters=max(1, iterations // WARMUP_SHARE))
        self.accumulation = accumulation

    def attach(self, engine: Engine) -> None:
        """Registers the handler with the trainer."""
        super().attach(engine, event=step_completed(self.accumulation))

    def state_dict(self) -> dict[str, Any]:
        """Returns the average and how far its warm-up is; only once it is attached."""
        return {"weights": self.ema_model.state_dict(), "updates": self.momentum_scheduler.event_index}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned; only once it is attached."""
        self.ema_model.load_state_dict(state["weights"])
        self.momentum_scheduler.event_index = state["updates"]


def final_momentum(momentum: float, iterations: int) -> float:
    """Returns `momentum`, raised where a training is so short that its beginning would never be forgotten.

    0.002 averages over about 500 iterations: of 3,000 these are the last sixth, but of 300 they would be all.
    """
    return min(max(momentum, SHORTEST / iterations), LARGEST_MOMENTUM)

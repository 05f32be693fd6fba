"""Pictures of a few validation cases while a network learns: where its outlines are, beside those of the truth."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from ignite.engine import Engine, Events
from numpy.typing import NDArray

from pipeline.engine.cache import CachedCase
from pipeline.imaging.comparisons import Comparison, draw_comparison

# What is enough to see how a training goes, and little in a store.
MOST_CASES = 3
MOST_STEPS = 10
Publish = Callable[[str, NDArray[np.uint8], int], None]
Item = TypeVar("Item")


class ValidationPictures:
    """Ignite handler of an evaluator: up to three cases, the same in every validation, as pictures to `publish`.

    A picture shows the planes in which the truth is widest, outlined as `draw_comparison` does. Where a training
    validates more than ten times, ten of the validations are pictured, the last among them. Of several ranks each
    has its own cases.

    Args:
        cases: what the evaluator sees, in order, one in each iteration; its output has the one-hot `pred` and `label`.
        spacing_mm: of the cases; below 0 where the plan leaves it to each case.
        epochs: of the training.
        validate_every: epochs between two validations.
        steps: of the optimiser in the whole training.
        publish: gets the name ``validation/<case id>``, the picture and the steps done.
    """

    def __init__(
        self, cases: Sequence[CachedCase], *, spacing_mm: Sequence[float], epochs: int, validate_every: int, steps: int,
        publish: Publish,
    ) -> None:
        self.affine = _affine_of(spacing_mm)
        self.steps_per_epoch = steps // epochs
        self.publish = publish
        validated = sorted({*range(validate_every, epochs + 1, validate_every), epochs})
        self.epochs = frozenset(spread(validated, MOST_STEPS))
        self.names = {position: f"validation/{cases[position].case_id}"
                      for position in spread(range(len(cases)), MOST_CASES)}

    def attach(self, engine: Engine) -> None:
        """Registers the handler with the evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Draws and publishes the case of this iteration, if it is one of those that are shown."""
        name = self.names.get(engine.state.iteration - 1)
        if name is None or engine.state.epoch not in self.epochs:
            return
        found = engine.state.output[0]
        comparison = Comparison(_shown(found["image"]), truth=_class_indices(found["label"]),
                                prediction=_class_indices(found["pred"]), affine=self.affine)
        picture = draw_comparison(comparison, comparison.widest_truth)
        self.publish(name, picture, engine.state.epoch * self.steps_per_epoch)


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """Returns up to `most` of the items, evenly spaced, the last among them.

    >>> spread(range(1, 10), 3)
    [3, 6, 9]
    """
    count = min(most, len(items))
    return [items[(number + 1) * len(items) // count - 1] for number in range(count)]


def _affine_of(spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """Returns the affine of volumes in RAS; an unknown spacing counts as the smallest known one, or 1 mm."""
    smallest = min((step for step in spacing_mm if step > 0), default=1.0)
    return np.diag([*(step if step > 0 else smallest for step in spacing_mm), 1.0])


def _shown(image: torch.Tensor) -> NDArray[np.float32]:
    """Returns what a `Comparison` takes of ``(channel, x, y, z)``: three channels, or the first."""
    return np.asarray((image if len(image) == 3 else image[0]).cpu().numpy(), dtype=np.float32)


def _class_indices(one_hot: torch.Tensor) -> NDArray[np.int16]:
    """Returns the class of each voxel, ``(x, y, z)``, of ``(classes, x, y, z)``; it takes no memory of a GPU."""
    indices = np.zeros(one_hot.shape[1:], dtype=np.int16)
    for number, channel in enumerate(one_hot[1:], start=1):
        indices[channel.cpu().numpy() > 0] = number
    return indices

"""What is decided once, after the training, on the validation cases: by all deciders in one pass over them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.engine.memory import is_out_of_memory


class Choice(Protocol):
    """Decides something when it has seen the validation cases."""

    def see(self, truth: NDArray[np.uint8], logits: torch.Tensor) -> None:
        """Takes one case: class indices ``(x, y, z)``, and what the network found, ``(classes, x, y, z)``."""

    def made(self) -> dict[str, Any]:
        """Returns the decision with its evidence, as JSON has it."""

    def undecided(self) -> dict[str, Any]:
        """Returns what stands in where memory does not allow to segment a validation case."""


class ValidationChoices:
    """Segments the validation cases by the trained network, on its own grid, and lets choices see them.

    Args:
        network: with the weights that are kept.
        inferer: takes ``(1, channels, x, y, z)`` and the network, returns logits ``(1, classes, x, y, z)``.
        device: of the network.
        volumes: `image` ``(channels, x, y, z)`` and `label` ``(1, x, y, z)`` class indices of each case.
        choices: by name.
    """

    def __init__(self, *, network: torch.nn.Module, inferer: Callable[..., torch.Tensor], device: torch.device,
                 volumes: Sequence[Mapping[str, torch.Tensor]], choices: Mapping[str, Choice]) -> None:
        self.network, self.inferer, self.device = network, inferer, device
        self.volumes, self.choices = volumes, choices

    def made(self) -> dict[str, dict[str, Any]]:
        """Returns what each choice made of all cases."""
        self.network.eval()
        try:
            for number in range(len(self.volumes)):
                volume = self.volumes[number]
                with torch.inference_mode():
                    logits = self.inferer(volume["image"][None].to(self.device), self.network)[0].float()
                    for choice in self.choices.values():
                        choice.see(volume["label"][0].numpy(), logits)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            # The training has ended, and its weights are worth more than these choices.
            return {name: choice.undecided() for name, choice in self.choices.items()}
        return {name: choice.made() for name, choice in self.choices.items()}

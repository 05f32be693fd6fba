"""Several networks, each trained without another part of the patients, that answer as one."""

from copy import deepcopy
from math import log

import torch
from torch.nn import functional

from pipeline.records.bundles import member_numbers


class Ensemble(torch.nn.Module):
    """Networks of one definition whose probabilities are averaged.

    It costs as much time as its members together, and the memory of one beside all weights.

    Args:
        network: what each member is a copy of; the weights come later.
        members: the number of each.
    """

    def __init__(self, network: torch.nn.Module, members: tuple[int, ...]) -> None:
        super().__init__()
        self.members = torch.nn.ModuleDict({str(number): deepcopy(network) for number in members})

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Returns the logarithm of the mean probabilities of ``(batch, channel, *spatial)``, in float32.

        It takes the place of one network's class scores: its softmax is the mean itself.
        """
        total = None
        for member in self.members.values():
            # In float32 also under autocast: the logarithm of a rare class needs the digits.
            scores = functional.log_softmax(member(image).float(), dim=1)
            total = scores if total is None else torch.logaddexp(total, scores)
        assert total is not None, "an ensemble has a member at least"
        return total - log(len(self.members))


def ensemble_of(network: torch.nn.Module, members: object) -> torch.nn.Module:
    """Returns the ensemble of the chosen members, or the network itself where `members` is None.

    Raises:
        InputError: as `member_numbers`.
    """
    return network if members is None else Ensemble(network, member_numbers(members))

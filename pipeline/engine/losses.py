"""The losses that a plan can name. All take logits, leave the background out of overlaps, and weigh classes alike."""

from collections.abc import Sequence

import torch
from monai.losses import DiceCELoss, DiceLoss, TverskyLoss
from torch.nn.modules.loss import _Loss

from pipeline.records.errors import InputError
from pipeline.records.plan import LOSSES


def loss_named(
    name: str, *, class_weights: Sequence[float], recall_weight: float | None = None,
    device: torch.device | str = "cpu",
) -> _Loss:
    """Returns a loss of logits ``(n, classes, x, y[, z])`` and class indices ``(n, 1, x, y[, z])``.

    Overlaps are summed over the batch, for many patches lack a label; each label's is multiplied by its weight. The
    cross entropy is the mean over voxels weighted by their class, background included.

    Args:
        name: one of `LOSSES`.
        class_weights: of background and each label.
        recall_weight: of ``tversky_ce``, see `TverskyCELoss`.
        device: where it is computed.

    Raises:
        InputError: ``unknown-loss``.
    """
    weights = torch.tensor(class_weights, device=device)
    if name == "dice_ce":
        return DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True, weight=weights)
    if name == "dice":
        return DiceLoss(include_background=False, to_onehot_y=True, softmax=True, batch=True, weight=weights[1:])
    if name == "cross_entropy":
        return CrossEntropy(weights)
    if name == "tversky_ce" and recall_weight is not None:
        return TverskyCELoss(weights, recall_weight=recall_weight)
    raise InputError("train.yaml", found=f"`loss: {name}`, `recall_weight: {recall_weight}`",
                     wanted=f"one of {', '.join(LOSSES)}, the last with a `recall_weight`", remedy="set them in "
                     "bundle.yaml and plan again", reason="unknown-loss")


class CrossEntropy(_Loss):
    """Cross entropy of logits and class indices ``(n, 1, ...)``, the mean over voxels weighted by their class."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.cross_entropy = torch.nn.CrossEntropyLoss(weight=weights)

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Returns the loss, a scalar."""
        loss: torch.Tensor = self.cross_entropy(logits, label[:, 0].long())
        return loss


class TverskyCELoss(_Loss):
    """Cross entropy and a Dice in which missed voxels count `recall_weight` and wrongly found ones the rest of 1.

    At 0.5 it is DiceCELoss; above, a miss costs more than a false find.

    Source: Salehi et al. 2017, doi:10.1007/978-3-319-67389-9_44.

    Args:
        weights: of background and each label.
        recall_weight: above 0 and below 1.
    """

    def __init__(self, weights: torch.Tensor, *, recall_weight: float) -> None:
        super().__init__()
        self.overlap_weights = weights[1:]
        self.overlap = TverskyLoss(include_background=False, to_onehot_y=True, softmax=True, batch=True,
                                   alpha=1 - recall_weight, beta=recall_weight, reduction="none")
        self.cross_entropy = CrossEntropy(weights)

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Returns the loss, a scalar."""
        overlaps = self.overlap(logits, label).flatten()
        if len(overlaps) > 1:  # a single label has none to be weighed against, nor do MONAI's losses
            overlaps = overlaps * self.overlap_weights
        loss: torch.Tensor = overlaps.mean() + self.cross_entropy(logits, label)
        return loss

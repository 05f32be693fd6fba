"""The plan's decisions about how to train that the sizes and spacings of the cases have no say in."""

from pipeline.records.decisions import Decisions


def decide_loss(decisions: Decisions) -> None:
    """Decides the loss and, of the one that has it, the weight of recall."""
    loss = decisions.make("loss", "dice_ce", "the recipe's: the overlap that is scored, and a gradient for every voxel")
    if loss == "tversky_ce":
        decisions.make("recall_weight", 0.7, "the best of Salehi et al. 2017, doi:10.1007/978-3-319-67389-9_44")
    else:
        decisions.make("recall_weight", None, "only `loss: tversky_ce` has one")

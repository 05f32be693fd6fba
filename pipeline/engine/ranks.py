"""Several processes that train as one: N ranks make of their batches one batch N times as large, and rank 0 writes.

torchrun starts the processes, on one machine or on several; ignite.distributed connects them, by NCCL where there are
GPUs and by gloo elsewhere. In a process by itself everything here does nothing.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import ignite.distributed as idist
import torch
import torch.distributed as dist
from torch.nn import SyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from pipeline.records.errors import InputError

Value = TypeVar("Value")
# Until a rank that waits for another gives up: longer than any validation of one volume and any checkpoint.
TIMEOUT = timedelta(minutes=30)
# For rank 0 to say what all have found, and for the launcher to end the others meanwhile.
GRACE_S = 3.0


def launched_processes() -> int:
    """Returns how many processes a launcher such as torchrun has started this one among; 0 where none has."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 0


def rank() -> int:
    """Returns this process's number among those that train together, 0 where it is alone."""
    return int(idist.get_rank())


def ranks() -> int:
    """Returns how many processes train together."""
    return int(idist.get_world_size())


def is_writer() -> bool:
    """Returns whether this process writes files, prints and shows the bar."""
    return rank() == 0


@contextmanager
def process_group() -> Iterator[None]:
    """Connects the processes that a launcher started; ranks but 0 are silent on the standard output.

    Raises:
        InputError: ``no-device``: there are fewer GPUs than processes; ``lost-process``: another process ended.
    """
    if launched_processes() <= 1:
        yield
        return
    idist.initialize(_backend(), timeout=TIMEOUT)
    with Path(os.devnull).open("w") as nowhere:  # noqa: SIM117
        with nullcontext() if is_writer() else redirect_stdout(nowhere):
            try:
                yield
            except Exception as error:
                if _is_of_lost_connection(error):
                    time.sleep(GRACE_S)  # the word is with the rank that ended
                    raise InputError("training", found=f"another process than rank {rank()} ended",
                                     wanted="all of them",
                                     remedy="see what it said, correct that, and give the same command again",
                                     reason="lost-process") from error
                if not is_writer():
                    time.sleep(GRACE_S)
                raise
            idist.finalize()


def _backend() -> str:
    if not torch.cuda.is_available():
        return "gloo"
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise InputError("training", found=f"{torch.cuda.device_count()} GPUs", wanted="one for each process",
                         remedy="start fewer processes", reason="no-device")
    return "nccl"


def _is_of_lost_connection(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
            return True
        error = error.__cause__
    return False


def of_all_ranks(value: Value) -> list[Value]:
    """Returns each rank's value, in order; all ranks have to call it."""
    if ranks() == 1:
        return [value]
    found: list[Any] = [None] * ranks()
    dist.all_gather_object(found, value)
    return found


def of_rank_0(value: Value) -> Value:
    """Returns the value that rank 0 has; all ranks have to call it."""
    if ranks() == 1:
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]


def highest(numbers: Sequence[int]) -> list[int]:
    """Returns, place by place, the highest of all ranks' numbers; all ranks have to call it."""
    if ranks() == 1:
        return list(numbers)
    highest_numbers: list[int] = idist.all_reduce(torch.tensor(numbers, device=idist.device()), "MAX").tolist()
    return highest_numbers


def share_of(items: Sequence[Value]) -> Sequence[Value]:
    """Returns every N-th item, from this rank's on; all of them where there are fewer items than ranks.

    A metric that gathers what the ranks found has the mean over all items either way.
    """
    return items[rank() :: ranks()] if len(items) >= ranks() else items


def in_parallel(network: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Returns the network as the ranks train it together: gradients are averaged in the backward pass.

    From here on each rank draws its own random numbers, for dropout; until here they drew the same first weights.

    Raises:
        InputError: ``batch-norm``: the network normalises over the batch, which on CPUs would be that of each rank.
    """
    if ranks() == 1:
        return network
    device = idist.device()
    if device.type == "cuda":
        network = DistributedDataParallel(SyncBatchNorm.convert_sync_batchnorm(network), device_ids=[device.index])
    elif any(isinstance(module, _BatchNorm) for module in network.modules()):
        raise InputError("network_def", found="batch normalisation", wanted="normalisation that several CPU processes "
                         "compute alike", remedy="set `norm: instance`, or train in one process", reason="batch-norm")
    else:
        network = DistributedDataParallel(network)
    torch.manual_seed(seed + rank())
    return network


class LossOverRanks(torch.nn.Module):
    """A loss of the batches of all ranks as one batch, whatever the loss is: Dice over a batch is no mean over parts.

    Every rank gathers scores and labels of all and computes the same number. A rank's scores get the gradient of that
    number times N, because DistributedDataParallel averages over the N ranks what is to be summed.

    Args:
        loss: of scores ``(n, classes, x, y[, z])`` and labels ``(n, 1, x, y[, z])``.
    """

    def __init__(self, loss: torch.nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, scores: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Returns the loss of ``(N * n, ...)``, of which this rank has ``(n, ...)``."""
        count = ranks()
        if count == 1:
            return self.loss(scores, label)
        if scores.requires_grad:
            scores.register_hook(lambda gradient: gradient * count)
        # Labels are class indices below 256: as bytes they are an eighth of the traffic.
        labels = _gathered(label.to(torch.uint8)).to(label.dtype)
        return self.loss(_gathered(scores), labels)


def _gathered(own: torch.Tensor) -> torch.Tensor:
    """Returns ``(N * n, ...)`` of all ranks' ``(n, ...)``; gradients go to this rank's own part."""
    own = own.contiguous()
    parts = [torch.empty_like(own) for _ in range(ranks())]
    dist.all_gather(parts, own.detach())
    parts[rank()] = own
    return torch.cat(parts)

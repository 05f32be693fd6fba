"""Reduced precision in training: where it is safe, and the inferer that applies it."""

import copy
from typing import Any

import torch
from monai.inferers import Inferer

from pipeline.records.errors import InputError

# Batch of the forward pass that only records shapes; normalisation refuses a single value.
RECORDED_BATCH = 2


class AutocastInferer(Inferer):
    """Runs the network as a whole under autocast and returns float32, so that the loss is computed in full precision.

    MONAI's own `amp` does so on CUDA alone. Nothing is cast with `float32`. With `float16` gradients underflow unless
    the trainer scales the loss: give it `amp` as well.

    Args:
        precision: a name in `pipeline.records.plan.PRECISIONS`.
    """

    def __init__(self, precision: str) -> None:
        self.dtype: torch.dtype = getattr(torch, precision)
        self.is_checked = self.dtype == torch.float32

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Returns what the network makes of ``(batch, channel, x, y[, z])``, as float32.

        Raises:
            InputError: ``unsafe-precision``: this device computes it wrongly, or not at all well.
        """
        if not self.is_checked:
            network_itself = getattr(network, "_orig_mod", network)  # what torch.compile wraps
            self._check(inputs, getattr(network_itself, "module", network_itself))  # and DistributedDataParallel
        with torch.autocast(inputs.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            outputs: torch.Tensor = network(inputs, *args, **kwargs)
        return outputs.float()

    def _check(self, inputs: torch.Tensor, network: torch.nn.Module) -> None:
        """Guards a schedule that was made on another device."""
        is_wrong = self.dtype == torch.float16 or not is_safe_in_bfloat16(network, tuple(inputs.shape[1:]))
        if inputs.device.type == "cpu" and is_wrong:
            raise InputError("schedule.yaml", found=f"{self.dtype} on a CPU, which computes its gradients wrongly here",
                             wanted="a precision that is safe", reason="unsafe-precision",
                             remedy="run `python -m pipeline schedule --experiment NAME --remeasure` on this machine")
        self.is_checked = True


def is_safe_in_bfloat16(network: torch.nn.Module, patch_shape: tuple[int, ...]) -> bool:
    """Returns whether CPUs compute all weight gradients of a network rightly under bfloat16 autocast.

    Where the first spatial dimension of a 3D convolution is smaller than its kernel, oneDNN (torch 2.13) leaves parts
    of the weight gradient unwritten: 2 with a kernel of 3, 2 to 4 with one of 5. Nothing is raised and the loss may
    stay finite. CPUs with AVX512-bf16 but without AMX do so. tests/test_engine_precision.py holds the guard against
    the gradients themselves.

    Args:
        network: as trained; it is neither run nor changed.
        patch_shape: ``(channels, x, y[, z])``.
    """
    return all(_is_deep_enough(module, depth) for module, depth in _convolved_depths(network, patch_shape))


def _is_deep_enough(module: torch.nn.Module, depth: int) -> bool:
    kernel, dilation = int(module.kernel_size[0]), int(module.dilation[0])
    return kernel == 1 or depth > dilation * (kernel - 1)


def _convolved_depths(
    network: torch.nn.Module, patch_shape: tuple[int, ...]
) -> list[tuple[torch.nn.Module, int]]:
    """Returns each 3D convolution and the size along its first axis of what it convolves: its finer side."""
    recorder = copy.deepcopy(network).to("meta").train()
    found: list[tuple[torch.nn.Module, int]] = []

    def record(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        finer = output if isinstance(module, torch.nn.ConvTranspose3d) else inputs[0]
        found.append((module, int(finer.shape[2])))

    for module in recorder.modules():
        if isinstance(module, (torch.nn.Conv3d, torch.nn.ConvTranspose3d)):
            module.register_forward_hook(record)
    with torch.no_grad():
        recorder(torch.zeros(RECORDED_BATCH, *patch_shape, device="meta"))
    return found

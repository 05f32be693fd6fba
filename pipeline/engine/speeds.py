"""How fast inference runs and what it may cost: the named choices behind `--speed`."""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from pipeline.records.errors import InputError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Speed:
    """One choice; docs/benchmarks.md has what each costs in Dice and gives in time.

    Attributes:
        reduced_precision: convolutions in bfloat16 (float16 on older GPUs) where the device is faster so.
        fits_windows: windows are fitted to the scan as `fitted_window` says, and spread evenly.
        skips_air: windows stay inside the box around the body.
        overlap: share of a window that its neighbour covers again; None takes the bundle's own.
    """

    reduced_precision: bool
    fits_windows: bool
    skips_air: bool
    overlap: float | None


SPEEDS = {
    "exact": Speed(reduced_precision=False, fits_windows=False, skips_air=False, overlap=None),
    "fast": Speed(reduced_precision=True, fits_windows=True, skips_air=True, overlap=None),
    "fastest": Speed(reduced_precision=True, fits_windows=True, skips_air=True, overlap=0.25),
}


def speed_named(name: str) -> Speed:
    """Returns the choice of this name.

    Raises:
        InputError: ``unknown-speed``.
    """
    if name not in SPEEDS:
        raise InputError("--speed", found=f"`{name}`", wanted=f"one of {', '.join(SPEEDS)}", remedy="choose one",
                         reason="unknown-speed")
    return SPEEDS[name]


@cache
def reduced_dtype(device_type: str) -> "torch.dtype | None":
    """Returns the number format in which convolutions are fastest on the device; None where float32 is."""
    import torch  # seconds, which the command line's own errors need not wait for

    if device_type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    # Without its own instructions, bfloat16 on a CPU is emulated and slower than float32.
    has_bf16 = device_type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if has_bf16 else None

"""The guard against wrong bfloat16 gradients on CPUs, held against the gradients themselves.

Called as a program, it prints the error of each case's gradients as JSON.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from monai.networks.nets import DynUNet, UNet

from pipeline.engine.precision import AutocastInferer, is_safe_in_bfloat16
from pipeline.records.errors import InputError

# Whole networks are 0.1 to 0.25 off in bfloat16; what is not computed at all is 0.9 off and more.
ROUNDING = 0.5


def unet(strides: Sequence[int], kernel: int = 3) -> torch.nn.Module:
    return UNet(3, 1, 2, [8, 16, 32, 64][: len(strides) + 1], strides, kernel_size=kernel, num_res_units=2,
                norm="instance")


def flat_dynunet() -> torch.nn.Module:
    """Looks along the first axis at the deepest level alone."""
    return DynUNet(3, 1, 2, [(1, 3, 3), (1, 3, 3), (3, 3, 3)], [1, (1, 2, 2), (1, 2, 2)], [(1, 2, 2), (1, 2, 2)],
                   filters=[8, 16, 32])


# Network, patch, and whether all its feature maps are at least as long as the kernel along the first axis.
CASES = {
    "16 halved to 4": (lambda: unet((2, 2)), (16, 16, 16), True),
    "12 halved to 3": (lambda: unet((2, 2)), (12, 8, 8), True),
    "16 halved to 2": (lambda: unet((2, 2, 2)), (16, 24, 24), False),
    "only the other axes halved to 2": (lambda: unet((2, 2, 2)), (24, 16, 16), True),
    "kernel of 5, 20 halved to 5": (lambda: unet((2, 2), kernel=5), (20, 16, 16), True),
    "kernel of 5, 16 halved to 4": (lambda: unet((2, 2), kernel=5), (16, 16, 16), False),
    "kernel of 5, 12 halved to 3": (lambda: unet((2, 2), kernel=5), (12, 16, 16), False),
    "2 under kernels of 1, 3 at the end": (flat_dynunet, (2, 16, 16), False),
    "4 under kernels of 1, 3 at the end": (flat_dynunet, (4, 16, 16), True),
}


def gradient_error(case: str) -> float:
    """Returns the largest relative error of a convolution's bfloat16 weight gradient against float32."""
    make, patch, _ = CASES[case]
    torch.manual_seed(0)
    network, image = make(), torch.randn(2, 1, *patch)
    exact, reduced = (weight_gradients(network, image, precision) for precision in ("float32", "bfloat16"))
    errors = [float((got - right).norm() / right.norm()) for right, got in zip(exact, reduced, strict=True)]
    return max(error if math.isfinite(error) else 1e9 for error in errors)


def weight_gradients(network: torch.nn.Module, image: torch.Tensor, precision: str) -> list[torch.Tensor]:
    network.zero_grad()
    inferer = AutocastInferer(precision)
    inferer.is_checked = True  # or it would refuse the networks whose error is to be seen
    output = inferer(image, network)
    # What is never written then holds these and not by chance the right gradient.
    freed = [torch.full((parameter.numel(),), math.nan) for parameter in network.parameters()]
    del freed
    target = torch.arange(output[:, 0].numel()).reshape(output[:, 0].shape) % 2
    torch.nn.functional.cross_entropy(output, target).backward()
    return [parameter.grad.clone() for parameter in network.parameters() if parameter.ndim == 5]


@pytest.fixture(scope="module")
def errors_without_amx() -> dict[str, float]:
    """The errors on the instructions that have the bug: AVX512 with bfloat16, which oneDNN is held to here."""
    if not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("this CPU has no bfloat16 instructions")
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16",
                   "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])}
    result = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=True)
    errors: dict[str, float] = json.loads(result.stdout)
    return errors


@pytest.mark.parametrize("case", CASES)
def test_the_guard_knows_what_is_too_short(case: str) -> None:
    make, patch, is_safe = CASES[case]
    assert is_safe_in_bfloat16(make(), (1, *patch)) is is_safe


def test_2d_networks_are_safe() -> None:
    network = UNet(2, 3, 2, [8, 16, 32], [2, 2], num_res_units=2)
    assert is_safe_in_bfloat16(network, (3, 8, 8))


def test_the_guard_leaves_the_network_as_it_is() -> None:
    network = unet((2, 2)).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    is_safe_in_bfloat16(network, (1, 16, 16, 16))
    assert not network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(not module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("case", [case for case, (_, _, is_safe) in CASES.items() if is_safe])
def test_gradients_are_right_where_the_guard_says_safe(case: str, errors_without_amx: dict[str, float]) -> None:
    assert gradient_error(case) < ROUNDING
    assert errors_without_amx[case] < ROUNDING


def test_gradients_are_wrong_where_the_guard_says_unsafe(errors_without_amx: dict[str, float]) -> None:
    """Documents the error: torch 2.13.0 has it without AMX and not with."""
    wrong = {case for case in errors_without_amx if errors_without_amx[case] >= ROUNDING}
    if not wrong:
        pytest.skip(f"torch {torch.__version__} computes all of them right: the guard may go")
    assert wrong <= {case for case, (_, _, is_safe) in CASES.items() if not is_safe}


@pytest.mark.parametrize(("precision", "network", "size"), [
    ("float16", unet((2,)), 16), ("bfloat16", unet((2, 2, 2)), 16),
])
def test_a_schedule_of_another_device_is_refused_where_it_is_unsafe(
    precision: str, network: torch.nn.Module, size: int
) -> None:
    with pytest.raises(InputError, match="schedule --experiment NAME --remeasure") as caught:
        AutocastInferer(precision)(torch.ones(2, 1, size, size, size), network)
    assert caught.value.reason == "unsafe-precision"


@pytest.mark.parametrize(("precision", "seen"), [
    ("float32", torch.float32), ("bfloat16", torch.bfloat16),
])
def test_the_network_runs_in_the_precision_and_returns_float32(precision: str, seen: torch.dtype) -> None:
    inside: list[torch.dtype] = []
    network = torch.nn.Conv3d(1, 2, 1)
    network.register_forward_hook(lambda _module, _inputs, output: inside.append(output.dtype))
    output = AutocastInferer(precision)(torch.ones(1, 1, 4, 4, 4), network)
    assert inside[-1] == seen
    assert output.dtype == torch.float32
    assert network.weight.dtype == torch.float32


if __name__ == "__main__":
    print(json.dumps({case: gradient_error(case) for case in CASES}))

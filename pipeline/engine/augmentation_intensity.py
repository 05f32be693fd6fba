"""What scanners do to intensities: blur, lower resolution, gamma, contrast, brightness and noise, on whole batches.

The kinds are those of nnU-Net (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z, supplementary note 4), the ranges
near to theirs; the formulas of contrast, brightness, gamma and noise are those of MONAI's transforms.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from pipeline.engine.augmentation_sampling import along_axes, linear_weights
from pipeline.records.errors import InputError

# In the order of application: what the optics do, what sampling does, the display's curve, the scale, noise on top.
KINDS = ("blur", "low_resolution", "gamma", "contrast", "brightness", "noise")
BLUR_TRUNCATE = 3.0  # standard deviations
SMALLEST = 1e-7


@dataclass(frozen=True, kw_only=True)
class IntensityAugmentation:
    """Changes the intensities of images that are about z-scored; every channel draws its own coins and values.

    Of each kind there is the share of the channels that get it (`..._prob`) and the range that its value is drawn
    from, uniformly: `blur_sigma_voxels` of the Gaussian; `low_resolution` is how many times coarser (nearest voxels,
    then linear between them); `gamma` is the exponent of intensities that are brought to 0..1 and back, mean and
    standard deviation as before, for a share `gamma_inverted` with dark and bright exchanged; `contrast` is a factor;
    `brightness` a summand; `noise_std` the standard deviation of Gaussian noise.

    Raises:
        InputError: a share is not between 0 and 1, or a range is not two numbers in order.
    """

    blur_prob: float = 0.1
    blur_sigma_voxels: Sequence[float] = (0.5, 1.0)
    low_resolution_prob: float = 0.1
    low_resolution: Sequence[float] = (1.0, 2.0)
    gamma_prob: float = 0.2
    gamma: Sequence[float] = (0.7, 1.5)
    gamma_inverted: float = 0.25
    contrast_prob: float = 0.3
    contrast: Sequence[float] = (0.75, 1.25)
    brightness_prob: float = 0.3
    brightness: Sequence[float] = (-0.2, 0.2)
    noise_prob: float = 0.2
    noise_std: Sequence[float] = (0.0, 0.3)

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            is_range = isinstance(value, Sequence)
            holds = len(value) == 2 and value[0] <= value[1] if is_range else 0 <= value <= 1
            if not holds:
                raise InputError("train.yaml, intensity augmentation", found=f"`{item.name}: {value}`",
                                 wanted="a lower and an upper bound" if is_range else "a share between 0 and 1",
                                 remedy="correct it", reason="invalid-value")

    def __call__(self, image: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Returns a new image.

        Args:
            image: ``(n, c, *spatial)`` float32.
            generators: on the CPU, one for each sample; each is drawn from in the same way whatever the others are.
        """
        count = image.shape[1]
        numbers = [torch.rand((len(KINDS) + 1, 2, count), generator=one) for one in generators]
        # Samples and channels are one axis from here on: (kinds, 2, n * c) numbers and (n * c, *spatial) voxels.
        coins, places = torch.stack(numbers, dim=2).flatten(2).unbind(dim=1)
        voxels = image.flatten(0, 1).clone()
        self._blur(voxels, coins[0], places[0])
        self._lower_resolution(voxels, coins[1], places[1])
        self._bend(voxels, coins[2], places[2], is_inverted=coins[-1] < self.gamma_inverted)
        voxels = self._rescale(voxels, coins[3:5], places[3:5])
        self._add_noise(voxels, coins[5], places[5], generators)
        return voxels.reshape(image.shape)

    def _blur(self, voxels: torch.Tensor, coins: torch.Tensor, places: torch.Tensor) -> None:
        sigmas = _between(self.blur_sigma_voxels, places).tolist()
        for i in _chosen(coins, self.blur_prob):
            weights = [blur_weights(size, sigma=sigmas[i]) for size in voxels.shape[1:]]
            voxels[i] = along_axes(voxels[None, i], weights)[0]

    def _lower_resolution(self, voxels: torch.Tensor, coins: torch.Tensor, places: torch.Tensor) -> None:
        factors = _between(self.low_resolution, places).tolist()
        for i in _chosen(coins, self.low_resolution_prob):
            weights = [low_resolution_weights(size, factor=factors[i]) for size in voxels.shape[1:]]
            voxels[i] = along_axes(voxels[None, i], weights)[0]

    def _bend(
        self, voxels: torch.Tensor, coins: torch.Tensor, places: torch.Tensor, *, is_inverted: torch.Tensor
    ) -> None:
        exponents = _between(self.gamma, places).tolist()
        # One after the other: sums and powers of a whole batch round differently as the batch grows.
        for i in _chosen(coins, self.gamma_prob):
            if exponents[i] != 1:
                sign = -1.0 if is_inverted[i] else 1.0
                voxels[i] = sign * bent(sign * voxels[i], exponents[i])

    def _rescale(self, voxels: torch.Tensor, coins: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        factors = torch.where(coins[0] < self.contrast_prob, _between(self.contrast, places[0]), 1.0)
        summands = torch.where(coins[1] < self.brightness_prob, _between(self.brightness, places[1]), 0.0)
        shape = (-1, *[1] * (voxels.ndim - 1))
        return voxels * factors.to(voxels.device).reshape(shape) + summands.to(voxels.device).reshape(shape)

    def _add_noise(
        self, voxels: torch.Tensor, coins: torch.Tensor, places: torch.Tensor, generators: Sequence[torch.Generator]
    ) -> None:
        stds = _between(self.noise_std, places).tolist()
        channels = len(voxels) // len(generators)
        for i in _chosen(coins, self.noise_prob):
            # On the CPU, whose generators are the same with every device.
            noise = torch.randn(voxels.shape[1:], generator=generators[i // channels]) * stds[i]
            voxels[i] += noise.to(voxels.device, non_blocking=True)


def blur_weights(size: int, *, sigma: float) -> torch.Tensor:
    """Returns the weights ``(size, size)`` of a Gaussian of `sigma` voxels along an axis that goes on as it ends."""
    radius = round(BLUR_TRUNCATE * sigma)
    beyond = torch.arange(-radius, size + radius)
    distances = torch.arange(size)[:, None] - beyond
    weights = torch.exp(-0.5 * (distances / max(sigma, SMALLEST)).double() ** 2) * (distances.abs() <= radius)
    weights /= weights.sum(dim=1, keepdim=True)
    return torch.zeros(size, size, dtype=weights.dtype).index_add_(1, beyond.clamp(0, size - 1), weights)


def low_resolution_weights(size: int, *, factor: float) -> torch.Tensor:
    """Returns the weights ``(size, size)`` of the voxels that an axis `factor` times coarser has, linear between them.

    A coarse voxel is the fine one at its centre, as `nearest-exact` of torch's interpolate takes it.
    """
    coarse = max(1, round(size / factor))
    step = size / coarse
    kept = ((torch.arange(coarse) + 0.5) * step).long()
    places = (torch.arange(size) + 0.5) / step - 0.5
    return torch.zeros(size, size).index_add_(1, kept, linear_weights(places, coarse))


def bent(voxels: torch.Tensor, exponent: float) -> torch.Tensor:
    """Returns intensities raised to `exponent` between their extremes, with their mean and standard deviation kept."""
    lowest, highest = torch.aminmax(voxels)
    curved = ((voxels - lowest) / (highest - lowest + SMALLEST)) ** exponent
    mean, centred = voxels.mean(), curved - curved.mean()
    # Norms stand for deviations: they are their ratio, and take an eighth of the time of torch.std.
    ratio = torch.linalg.vector_norm(voxels - mean) / (torch.linalg.vector_norm(centred) + SMALLEST)
    return centred * ratio + mean


def _chosen(coins: torch.Tensor, prob: float) -> list[int]:
    return [i for i, coin in enumerate(coins.tolist()) if coin < prob]


def _between(bounds: Sequence[float], places: torch.Tensor) -> torch.Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * places

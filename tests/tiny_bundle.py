"""A trained bundle in miniature: the template's configs with a network whose answer is known by hand.

The network is one convolution of one voxel whose class scores are ``2 k x - k^2``: the nearest whole number to the
intensity x wins, so a scan with intensities 0, 1, 2, ... is its own expected segmentation.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from monai.bundle import ConfigParser

from pipeline.engine.segmenter import Segmenter
from pipeline.imaging.discovery import find_scans
from pipeline.records.files import sha256_of_file

CONFIGS = Path(__file__).parents[1] / "bundles/segmentation/configs"
SHARPNESS = 1000.0  # so large that each voxel's probabilities are 0 and 1


def nearest_number_network(classes: int, dims: int = 3) -> torch.nn.Module:
    """Returns the network for intensities 0 to classes - 1."""
    kind = torch.nn.Conv3d if dims == 3 else torch.nn.Conv2d
    network = kind(1, classes, 1)
    numbers = torch.arange(classes, dtype=torch.float32)
    state = {"weight": (2 * numbers * SHARPNESS).reshape(classes, 1, *[1] * dims), "bias": -(numbers**2) * SHARPNESS}
    network.load_state_dict(state)
    return network


def write_bundle(
    root: Path, *, labels: dict[str, int], spacing_mm: Sequence[float] = (-1, -1, -1), slice_axis: int | None = None,
    **overrides: Any,
) -> Path:
    """Writes configs and weights of a bundle that turns intensities into the label of the same rank; returns `root`."""
    dims = 3 if slice_axis is None else 2
    plan = {
        "spatial_dims": dims,
        "slice_axis": slice_axis,
        "spacing_mm": list(spacing_mm),
        "patch_size": [1 if axis == slice_axis else 32 for axis in range(3)],
        # Leaves the intensities as they are.
        "intensity": {"scheme": "ct", "low": -1000.0, "high": 1000.0, "mean": 0.0, "std": 1.0},
        "intensity_range": [-1000.0, 1000.0],
        "model_name": "tiny",
        "modality": "CT",
        "labels": labels,
        "network_def": {"_target_": f"torch.nn.Conv{dims}d", "in_channels": 1, "out_channels": len(labels) + 1,
                        "kernel_size": 1},
    }
    config: dict[str, Any] = {}
    for name in ("common.yaml", "inference.yaml"):
        config |= yaml.safe_load((CONFIGS / name).read_text())
    config |= plan | overrides
    (root / "configs").mkdir(parents=True)
    (root / "models").mkdir()
    (root / "configs/inference.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    weights = root / "models/model.pt"
    torch.save(nearest_number_network(len(labels) + 1, dims).state_dict(), weights)
    weights.with_name("model.pt.sha256").write_text(f"{sha256_of_file(weights)}  model.pt\n")
    return root


def segmenter_of(root: Path, scan: Path, output_dir: Path, **overrides: Any) -> Segmenter:
    """Returns the evaluator that the bundle's config makes for the scan or scans at `scan`."""
    parser = ConfigParser(ConfigParser.load_config_file(str(root / "configs/inference.yaml")))
    parser["bundle_root"] = str(root)
    parser["output_dir"] = str(output_dir)
    parser["found"] = find_scans(scan)
    for key, value in overrides.items():
        parser[key] = value
    evaluator: Segmenter = parser.get_parsed_content("evaluator")
    return evaluator

"""MONAI bundles: assembled from the template and a plan, trained, and run. The sole importer of monai.bundle."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.transforms import Compose

from pipeline.records.confidence import CONFIDENCE, OF_INFERENCE
from pipeline.records.files import sha256_of_file, write_json, write_text
from pipeline.records.plan import Plan, read_plan
from pipeline.records.postprocessing import LARGEST_COMPONENT

CONFIGS = {"train": ("common.yaml", "train.yaml"), "inference": ("common.yaml", "inference.yaml")}
WEIGHTS = "model.pt"


def preprocessing_of(template: Path, *, plan: Path, keys: Sequence[str]) -> Compose:
    """Returns the template's preprocessing with the plan's values, for dictionaries with `keys`."""
    parser = ConfigParser(ConfigParser.load_config_files([str(template / "configs/common.yaml"), str(plan)]))
    parser["keys"] = list(keys)
    return Compose(parser.get_parsed_content("preprocessing"))


def network_of(plan: Plan) -> Any:
    """Returns the network that a plan defines, a torch module with fresh weights on the CPU."""
    return ConfigParser(asdict(plan)).get_parsed_content("network_def")


def assemble_bundle(
    template: Path, target: Path, *, plan: Path, schedule: Path, changes: Mapping[str, Any] | None = None
) -> None:
    """Writes the untrained bundle: the template with plan and schedule merged in, one whole config for each purpose.

    Values in `changes`, which only the device at hand could tell, win over theirs.

    The trained bundle then runs from `configs/inference.yaml` alone, wherever it is unpacked.
    """
    (target / "models").mkdir(parents=True, exist_ok=True)
    for purpose, names in CONFIGS.items():
        values = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (plan, schedule)]
        text = merged_config(template, names, values=[*values, changes or {}])
        write_text(target / "configs" / f"{purpose}.yaml", text)
    shutil.copyfile(template / "configs/logging.conf", target / "configs/logging.conf")
    metadata = json.loads((template / "configs/metadata.json").read_text(encoding="utf-8"))
    write_json(target / "configs/metadata.json", planned_metadata(metadata, read_plan(plan)))


def merged_config(template: Path, names: Sequence[str], *, values: Sequence[Mapping[str, Any]]) -> str:
    """Returns the template's configs with those values of plan and schedule that they have keys for, as YAML.

    Later values win: what the schedule found wins over what the plan leaves open.
    """
    merged = ConfigParser.load_config_files([str(template / "configs" / name) for name in names])
    for content in values:
        merged.update({key: value for key, value in content.items() if key in merged})
    return _as_yaml(merged)


def _as_yaml(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(config), sort_keys=False, default_flow_style=None, width=120)


def planned_metadata(metadata: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """Returns the template's metadata with the network's real input and output, as `verify_net_in_out` checks them."""
    shape = [size for axis, size in enumerate(plan.patch_size) if axis != plan.slice_axis]
    names = {"0": "background"} | {str(i): name for i, name in enumerate(plan.labels, start=1)}
    image = {
        "type": "image", "format": "magnitude", "modality": plan.modality, "num_channels": len(plan.channels),
        "spatial_shape": shape, "dtype": "float32", "value_range": [], "is_patch_data": True,
        "channel_def": {str(i): name for i, name in enumerate(plan.channels)},
    }
    prediction = {
        "type": "image", "format": "segmentation", "num_channels": len(names), "spatial_shape": shape,
        "dtype": "float32", "value_range": [], "is_patch_data": True, "channel_def": names,
    }
    data_format = {"inputs": {"image": image}, "outputs": {"pred": prediction}}
    return {**metadata, **_installed_versions(metadata), "network_data_format": data_format}


def _installed_versions(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the versions that the bundle is trained with, which need not be those of the template."""
    # What follows a plus is the build (`2.13.0+cpu`), which a package index does not know.
    found = {name: version(name).partition("+")[0] for name in metadata["required_packages_version"]}
    return {"monai_version": version("monai"), "pytorch_version": version("torch").partition("+")[0],
            "numpy_version": version("numpy"), "required_packages_version": found}


def run_training(bundle_root: Path, *, overrides: Mapping[str, Any]) -> None:
    """Trains a bundle by its own `configs/train.yaml`; leaves the averaged weights with their SHA-256.

    Then the validation cases decide what of inference's `largest_component` is worth it, and how sure is sure: why is
    in `LARGEST_COMPONENT` and `CONFIDENCE`.

    With `resume_file` among the overrides a training that was killed or stopped goes on where it was. Of several
    processes that train together, rank 0 writes.

    Raises:
        RuntimeError: from an InputError, ``nan-loss``: the loss was not finite.
        SystemExit: SIGTERM or SIGINT stopped it; a checkpoint is written.
    """
    from ignite.distributed import get_rank  # training's alone: a bundle segments without ignite

    workflow = ConfigWorkflow(
        config_file=str(bundle_root / "configs/train.yaml"), bundle_root=str(bundle_root), **overrides
    )
    workflow.initialize()
    with workflow.parser.get_parsed_content("train#checkpoints").stopping_on_signals():
        workflow.run()
    if get_rank() > 0:
        return
    weights = bundle_root / "models" / WEIGHTS
    write_text(weights.with_suffix(".pt.sha256"), f"{sha256_of_file(weights)}  {WEIGHTS}\n")
    choices = workflow.parser.get_parsed_content("validate#choices").made()
    write_json(bundle_root / LARGEST_COMPONENT, choices["largest_component"])
    write_json(bundle_root / CONFIDENCE, choices["confidence"])
    path = bundle_root / "configs/inference.yaml"
    inference = yaml.safe_load(path.read_text(encoding="utf-8"))
    chosen = {name: choices["confidence"][name] for name in OF_INFERENCE}
    write_text(path, _as_yaml({**inference, "largest_component": choices["largest_component"]["chosen"], **chosen}))


def open_segmenter(bundle_root: Path, **overrides: Any) -> Any:
    """Returns the bundle's `Segmenter`, which keeps the network loaded from one call of `segment_found` to the next.

    Args:
        bundle_root: a trained bundle.
        overrides: of keys of its inference config, such as `speed`.
    """
    from pipeline.imaging.discovery import Found

    parser = ConfigParser(ConfigParser.load_config_file(str(bundle_root / "configs/inference.yaml")))
    # No scans yet and nowhere to put them: both come with each call.
    values = {"bundle_root": str(bundle_root), "results_dir": str(bundle_root), "found": Found((), {}, ()), **overrides}
    for key, value in values.items():
        parser[key] = value
    return parser.get_parsed_content("evaluator")


def series_rule_of(bundle_root: Path) -> Any:
    """Returns the bundle's `SeriesRule`: which DICOM series of a study it is for."""
    parser = ConfigParser(ConfigParser.load_config_file(str(bundle_root / "configs/inference.yaml")))
    return parser.get_parsed_content("series_rule")


def segment(bundle_root: Path, scans: Mapping[str, Path], *, output_dir: Path, **overrides: Any) -> list[Any]:
    """Segments scans by the bundle's own inference config, as `python -m monai.bundle run` does.

    Args:
        bundle_root: a trained bundle.
        scans: output folder name to the file of a scan.
        output_dir: gets a folder for each scan and the summaries.
        overrides: as for `open_segmenter`.

    Returns:
        One result for each scan, in order; a scan that failed is among them and stops no other.
    """
    from pipeline.imaging.discovery import Found, ScanLocation

    locations = tuple(ScanLocation(name=name, path=path, relative=path.name) for name, path in scans.items())
    segmenter = open_segmenter(bundle_root, **overrides)
    return list(segmenter.segment_found(Found(locations, {}, ()), output_dir))

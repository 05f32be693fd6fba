"""The template and what a plan makes of it: MONAI's own checks pass, and no key is dead, double or missing."""

import json
import os
import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, verify_metadata, verify_net_in_out

from pipeline.bundle import CONFIGS, assemble_bundle, preprocessing_of
from pipeline.engine.topology import ARCHITECTURES
from pipeline.records.index import Index
from pipeline.records.plan import OF_THE_SCHEDULE, Plan, write_plan
from pipeline.records.schedule import Schedule, write_schedule
from pipeline.stages.plan import Fingerprint, make_plan, read_overrides
from pipeline.stages.schedule import fixed_schedule

ROOT = Path(__file__).parent.parent
TEMPLATE = ROOT / "bundles/segmentation"
# Keys that nothing refers to because MONAI itself, or the person who calls, looks for them by name.
ENTRY_POINTS = {"imports", "initialize", "run", "bundle_root", "dataset_dir", "dataset", "input", "output_dir",
                "series"}


def assembled(folder: Path, **overrides: Any) -> Path:
    index = Index("liver", "data/raw/liver", "CT", "CC0", {"organ": 1, "lesion": 2}, ())
    statistics = {"low": -50.0, "high": 200.0, "mean": 60.0, "std": 40.0}
    fingerprint = Fingerprint(("a",), ((40, 36, 20),), ((1.5, 1.5, 3.0),), {"organ": 900, "lesion": 9}, (-990.0, 900.0),
                              statistics)
    plan, schedule = folder / "plan.yaml", folder / "schedule.yaml"
    planned = make_plan(fingerprint, index, name="liver_3d", overrides={"iterations": 40, "epochs": 2} | overrides)
    write_plan(plan, planned)
    write_schedule(schedule, fixed_schedule(planned, "0" * 64, where=plan))
    assemble_bundle(TEMPLATE, folder / "bundle", plan=plan, schedule=schedule)
    return folder / "bundle"


@pytest.fixture(params=[3, 2])
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return assembled(tmp_path, spatial_dims=request.param)


def merged(purpose: str) -> dict[str, Any]:
    return ConfigParser.load_config_files([str(TEMPLATE / "configs" / name) for name in CONFIGS[purpose]])


def keys_referred_to(config: dict[str, Any]) -> set[str]:
    return set(re.findall(r"@(\w+)", yaml.safe_dump(config)))


@pytest.mark.parametrize("purpose", CONFIGS)
def test_no_key_is_dead(purpose: str) -> None:
    config = merged(purpose)
    # What common.yaml offers need not serve both purposes; what is written for one must serve it.
    shared = set(yaml.safe_load((TEMPLATE / "configs/common.yaml").read_text()))
    both = keys_referred_to(merged("train")) | keys_referred_to(merged("inference"))
    used = keys_referred_to(config) | (shared & both) | ENTRY_POINTS
    assert set(config) - used == set()


@pytest.mark.parametrize("name", ["common.yaml", "train.yaml", "inference.yaml"])
def test_no_key_is_written_twice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONAI_FAIL_ON_DUPLICATE_CONFIG", "1")
    assert ConfigParser.load_config_file(str(TEMPLATE / "configs" / name))


def test_every_value_of_the_plan_is_a_key_that_it_overlays() -> None:
    known = set(merged("train")) | set(merged("inference"))
    assert {item.name for item in fields(Plan)} - set(OF_THE_SCHEDULE) <= known
    assert {item.name for item in fields(Schedule)} - {"measured", "plan_sha256"} <= known


def test_every_experiment_overrides_only_what_a_plan_has() -> None:
    experiments = sorted((ROOT / "configs").glob("*/bundle.yaml"))
    assert len(experiments) >= 4
    for path in experiments:
        assert read_overrides(path)["spatial_dims"] in (2, 3)


@pytest.mark.parametrize("purpose", CONFIGS)
def test_monai_finds_the_ids_it_requires(bundle: Path, purpose: str) -> None:
    workflow = ConfigWorkflow(
        config_file=str(bundle / f"configs/{purpose}.yaml"), workflow_type=purpose, logging_file=False
    )
    required = {str(entry["id"]) for entry in workflow.properties.values() if entry["required"]}
    assert len(required) > 6
    assert {name for name in required if name not in workflow.parser} == set()


def test_metadata_is_valid_by_monais_schema(bundle: Path) -> None:
    folder = os.environ.get("SEGLINE_TEST_DATA")
    if folder is None:
        pytest.skip("SEGLINE_TEST_DATA is unset: MONAI's metadata schema is not at hand")
    schema = str(Path(folder) / "monai/meta_schema_20240725.json")
    written = bundle / "configs/metadata.json"
    verify_metadata(meta_file=str(written), filepath=schema)

    # The check is alive: without a key that the schema requires, the same metadata is refused.
    broken = {key: value for key, value in json.loads(written.read_text()).items() if key != "task"}
    (bundle / "broken.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="task"):
        verify_metadata(meta_file=str(bundle / "broken.json"), filepath=schema)


def test_network_takes_and_gives_what_metadata_says(bundle: Path) -> None:
    metadata = json.loads((bundle / "configs/metadata.json").read_text())
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"] == {
        "0": "background", "1": "organ", "2": "lesion"
    }
    verify_net_in_out(
        net_id="network_def", meta_file=str(bundle / "configs/metadata.json"),
        config_file=str(bundle / "configs/inference.yaml"), device="cpu",
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_exported_network_gives_what_the_network_gives(tmp_path: Path, architecture: str) -> None:
    bundle = assembled(tmp_path, spatial_dims=3, architecture=architecture)
    parser = ConfigParser(ConfigParser.load_config_file(str(bundle / "configs/inference.yaml")))
    network = parser.get_parsed_content("network_def").eval()
    torch.save(network.state_dict(), bundle / "models/model.pt")
    ckpt_export(
        net_id="network_def", filepath=str(bundle / "models/model.ts"), ckpt_file=str(bundle / "models/model.pt"),
        meta_file=str(bundle / "configs/metadata.json"), config_file=str(bundle / "configs/inference.yaml"),
    )
    exported = torch.jit.load(str(bundle / "models/model.ts")).eval()
    image = torch.rand(1, 1, *parser["patch_size"], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(exported(image), network(image))


def test_a_bundle_names_every_package_that_inference_needs() -> None:
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    named = json.loads((TEMPLATE / "configs/metadata.json").read_text())["required_packages_version"]
    # MONAI's schema has entries of their own for these three.
    assert {re.match(r"[\w-]+", text)[0] for text in asked} == {*named, "monai", "torch", "numpy"}


def test_training_and_inference_preprocess_alike(bundle: Path) -> None:
    steps = [yaml.safe_load((bundle / f"configs/{purpose}.yaml").read_text())["preprocessing"] for purpose in CONFIGS]
    assert steps[0] == steps[1]
    # The preprocess stage builds the same steps, for image and label.
    built = preprocessing_of(TEMPLATE, plan=bundle.parent / "plan.yaml", keys=["image", "label"]).transforms
    assert [type(step).__name__ for step in built] == [step["_target_"].split(".")[-1] for step in steps[0]]
    assert tuple(built[0].keys) == ("image", "label")

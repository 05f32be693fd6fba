"""The shape of the project: what a stage depends on in dvc.yaml is what it imports, and files stay short."""

import ast
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
# A `foreach` stage is written below `do`.
STAGES = {name: stage.get("do", stage)
          for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items()}
CONFIGS = ROOT / "bundles/segmentation/configs"
# Which parts of the template's configs a stage makes objects of; what it only copies it does not import.
USED_CONFIG = {
    "preprocess": [("common.yaml", "preprocessing")],
    "train": [("common.yaml", "inferer"), ("train.yaml", None)],
    "evaluate": [("common.yaml", None), ("inference.yaml", None)],
}


def module_file(name: str) -> Path | None:
    path = ROOT / name.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def modules_imported_by(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("pipeline.")}


def modules_named_in_config(stage: str) -> set[str]:
    names = set()
    for file, part in USED_CONFIG.get(stage, []):
        content = yaml.safe_load((CONFIGS / file).read_text())
        text = yaml.safe_dump(content if part is None else content[part])
        names |= set(re.findall(r"pipeline(?:\.[a-z_0-9]+)+", text))
    return names


def files_a_stage_runs(stage: str) -> set[str]:
    waiting = {f"pipeline.stages.{stage}"} | modules_named_in_config(stage)
    files: set[Path] = set()
    while waiting:
        file = module_file(waiting.pop())
        if file is not None and file not in files and file.stat().st_size > 0:
            files.add(file)
            waiting |= modules_imported_by(file)
    return {file.relative_to(ROOT).as_posix() for file in files}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_modules_it_imports(stage: str) -> None:
    prefix = "../../" if "wdir" in STAGES[stage] else ""
    listed = {str(entry).removeprefix(prefix) for entry in STAGES[stage]["deps"] if str(entry).endswith(".py")}
    assert listed == files_a_stage_runs(stage)


@pytest.mark.parametrize("path", sorted((ROOT / "pipeline").rglob("*.py")), ids=lambda path: path.name)
def test_no_file_is_over_300_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


def test_the_report_depends_on_every_template_it_renders() -> None:
    templates = {path for path in (ROOT / "pipeline").rglob("*") if path.suffix in {".j2", ".css", ".js"}}
    folder = ROOT / "pipeline/stages/report/templates"
    assert folder.relative_to(ROOT).as_posix() in STAGES["report"]["deps"]
    assert [path for path in templates if folder not in path.parents] == []


def test_bundle_py_alone_imports_monai_bundle() -> None:
    importers = {file.relative_to(ROOT).as_posix() for file in (ROOT / "pipeline").rglob("*.py")
                 if re.search(r"^\s*(from|import) monai\.bundle", file.read_text(), re.MULTILINE)}
    assert importers == {"pipeline/bundle.py"}

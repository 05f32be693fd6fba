"""The command line as a user meets it: what is wrong is one line, and help needs no heavy import."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def call(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pipeline", *words], cwd=cwd, capture_output=True, text=True,
                          check=False)


@pytest.mark.parametrize(("words", "text"), [
    (("run", "--experiment", "livr"), "error: configs/livr: no such experiment"),
    (("audit", "--experiment", "livr"), "error: configs/livr/data.yaml: no such file"),
    (("plan", "--experiment", "livr"), "error: work/livr/index.json: no such file"),
    (("phantom", "--dataset", "livr"), "error: livr: no phantom of that name"),
])
def test_a_wrong_name_is_one_line(words: tuple[str, ...], text: str, tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    result = call(*words, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith(text)
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.rglob("*")) == [tmp_path / "configs"], "nothing half-written"


def test_help_lists_every_stage_module_and_command_module() -> None:
    text = call("--help", cwd=ROOT).stdout
    modules = [*(ROOT / "pipeline/stages").glob("*.py"), *(ROOT / "pipeline/commands").glob("*.py")]
    names = {path.stem for path in modules} - {"__init__"}
    assert len(names) >= 11
    assert {name for name in names if not re.search(rf"^ +{name}\b", text, re.MULTILINE)} == set()


def test_light_stages_do_not_import_torch() -> None:
    modules = [f"pipeline.stages.{name}" for name in ("phantom", "audit", "plan", "report", "package")]
    code = f"import sys, {', '.join(modules)}; print('torch' in sys.modules, 'mlflow' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]

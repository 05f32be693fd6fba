"""The quick command gives what MONAI's own runner gives, ends as it ends, and imports nothing it does not use."""

import gc
import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_engine_segmenter import cube
from tiny_bundle import write_bundle
from tiny_msd import write_scan

from pipeline.commands import segment


def run_command(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False)


def test_it_writes_what_the_bundle_s_own_command_writes(tmp_path: Path) -> None:
    root = write_bundle(tmp_path / "bundle", labels={"cube": 1}, spacing_mm=(1.5, 1.5, 1.5))
    for name in "ab":
        write_scan(tmp_path / f"$ 1,2/{name}.nii.gz", cube())
    (tmp_path / "$ 1,2/c.nii.gz").write_bytes((tmp_path / "$ 1,2/a.nii.gz").read_bytes()[:150])
    common = ("--input", "$ 1,2", "--speed", "exact", "--probabilities")
    slow = run_command("-m", "monai.bundle", "run", "--config_file", str(root / "configs/inference.yaml"),
                       "--bundle_root", str(root), "--output_dir", "slow", *common, folder=tmp_path)
    quick = run_command("-m", "pipeline", "segment", "--bundle", "bundle", "--output-dir", "$quick", *common,
                        folder=tmp_path)
    assert (quick.returncode, slow.returncode) == (1, 1), quick.stderr
    assert "[3/3] c.nii.gz: failed" in quick.stdout
    assert quick.stderr.splitlines()[-1].startswith("1 of 3 scans failed")
    for name in ("a/segmentation.nii.gz", "b/segmentation.nii.gz", "a/probabilities.nii.gz"):
        assert (tmp_path / "$quick" / name).read_bytes() == (tmp_path / "slow" / name).read_bytes()
    settings = [json.loads((tmp_path / out / "a/report.json").read_text())["settings"] for out in ("slow", "$quick")]
    assert settings[0] == settings[1]


def test_it_needs_none_of_the_packages_that_it_hides(tmp_path: Path) -> None:
    root = write_bundle(tmp_path / "bundle", labels={"cube": 1})
    write_scan(tmp_path / "a.nii.gz", np.zeros((8, 8, 8), dtype=np.float32))
    code = ("import sys; sys.argv = ['pipeline', 'segment', '--bundle', 'bundle', '--input', 'a.nii.gz',"
            " '--output_dir', 'out']; from pipeline.__main__ import main; code = main();"
            f" print(code, [name for name in {segment.UNUSED} if name in sys.modules])")
    assert root.is_dir()
    finished = run_command("-c", code, folder=tmp_path)
    assert finished.stdout.splitlines()[-1] == "0 []", finished.stderr


@pytest.mark.parametrize(("words", "message"), [
    (("--bundle", "nowhere", "--input", "a.nii.gz"), "nowhere: no configs/inference.yaml"),
    (("--bundle", "bundle", "--input", "missing.nii.gz"), "missing.nii.gz"),
    (("--bundle", "bundle", "--input", "a.nii.gz", "--speed", "slow"), "invalid choice: 'slow'"),
])
def test_what_cannot_be_started_is_one_line_and_exit_code_2(tmp_path: Path, words: tuple[str, ...],
                                                            message: str) -> None:
    write_bundle(tmp_path / "bundle", labels={"cube": 1})
    write_scan(tmp_path / "a.nii.gz", np.zeros((8, 8, 8), dtype=np.float32))
    finished = run_command("-m", "pipeline", "segment", *words, "--output_dir", "out", folder=tmp_path)
    assert finished.returncode == 2
    assert message in finished.stderr.splitlines()[-1]
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--input", "--output_dir"])
def test_an_empty_path_is_no_place(tmp_path: Path, option: str) -> None:
    words = {"--input": "scans", "--output_dir": "out", option: ""}
    given = [part for pair in words.items() for part in pair]
    done = run_command("-m", "pipeline", "segment", "--bundle", "bundle", *given, folder=tmp_path)
    assert done.returncode == 2
    assert f"argument {option}" in done.stderr
    assert "an empty path; is a variable not set?" in done.stderr


def test_hidden_packages_can_be_imported_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "segline_hidden.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(segment, "UNUSED", ("segline_hidden", "json"))
    with segment.unused_packages_hidden():
        assert not gc.isenabled()
        assert sys.modules["json"] is json, "what is imported already stays"
        with pytest.raises(ImportError):
            importlib.import_module("segline_hidden")
    assert gc.isenabled()
    assert importlib.import_module("segline_hidden").value == 1

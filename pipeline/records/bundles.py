"""What makes a folder a trained bundle: configs, weights of one network or of an ensemble's members; what it says."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.records.errors import InputError
from pipeline.records.files import sha256_of_text
from pipeline.records.strict_yaml import read_yaml

WEIGHTS = Path("models/model.pt")


def require_bundle(folder: Path) -> None:
    """Checks, before seconds go into importing what would run it, that a folder can be a trained bundle.

    Raises:
        InputError: ``not-a-bundle``.
    """
    if not (folder / "configs/inference.yaml").is_file():
        raise InputError(folder, found="no configs/inference.yaml", wanted="the folder of a trained bundle",
                         remedy="give the folder below models/", reason="not-a-bundle")


def batches_of_training(folder: Path) -> dict[str, Any]:
    """Returns `batch_size`, `accumulation` and `processes` as a bundle was trained; nothing where it does not say.

    They differ from plan and schedule where memory ran out, or where a launcher started more processes.
    """
    config = folder / "configs/train.yaml"
    content = read_yaml(config) if config.is_file() else {}
    return {name: content[name] for name in ("batch_size", "accumulation", "processes") if name in content}


def weights_of_member(weights: Path, member: int) -> Path:
    """Returns where the weights of an ensemble's member are: `model.fold0.pt` in the place of `model.pt`."""
    return weights.with_name(f"{weights.stem}.fold{member}{weights.suffix}")


def history_of_member(bundle: Path, member: int) -> Path:
    """Returns where an ensemble keeps the training curves of a member."""
    return bundle / f"docs/history.fold{member}.csv"


def members_of(weights: Path) -> list[int]:
    """Returns the numbers of an ensemble's members, rising; none where the bundle holds one network."""
    pattern = re.compile(rf"{re.escape(weights.stem)}\.fold(\d+){re.escape(weights.suffix)}")
    found = [pattern.fullmatch(path.name) for path in weights.parent.glob("*")]
    return sorted(int(match[1]) for match in found if match)


def member_numbers(given: object) -> tuple[int, ...]:
    """Returns members as a person gives them, on the command line or from a program: `0`, `0,2`, `[0, 2]`.

    Raises:
        InputError: ``unknown-member``: they are no such numbers, none, or one comes twice.
    """
    words = given if isinstance(given, list | tuple) else str(given).strip("[]() ").split(",")
    texts = [str(word).strip() for word in words]
    if not texts or not all(re.fullmatch(r"\d{1,3}", text) for text in texts) or len(set(texts)) < len(texts):
        raise InputError("--members", found=f"`{given}`", wanted="numbers of an ensemble's networks, such as 0 or 0,2",
                         remedy="leave it out for all of them", reason="unknown-member")
    return tuple(int(text) for text in texts)


def recorded_digests(bundle: Path) -> dict[str, str]:
    """Returns the SHA-256 recorded for each file of weights, by the file's name: one, or one for each member."""
    weights = bundle / WEIGHTS
    files = [weights_of_member(weights, member) for member in members_of(weights)] or [weights]
    records = {file.name: file.with_name(f"{file.name}.sha256") for file in files}
    return {name: path.read_text(encoding="utf-8").split()[0] for name, path in records.items() if path.is_file()}


def joint_digest(digests: Sequence[str]) -> str:
    """Returns one digest for the weights of all members that vote; of one network its own."""
    return digests[0] if len(digests) == 1 else sha256_of_text("".join(digests))

"""A trained bundle's weights: verified by their digest first, loaded without running code they could carry."""

from pathlib import Path

import torch

from pipeline.engine.ensemble import Ensemble
from pipeline.records.bundles import joint_digest, members_of, weights_of_member
from pipeline.records.errors import InputError
from pipeline.records.files import sha256_of_file


def load_weights(network: torch.nn.Module, path: Path, *, device: torch.device) -> str:
    """Loads the state dict at `path` into `network` and returns the file's SHA-256.

    Where ``<path>.sha256`` lies beside it (digest first on the line, as ``sha256sum`` writes), the digests must agree.
    The members of an ensemble have a file each beside `path`; the digest is then that of theirs.

    Raises:
        InputError: ``missing-weights``, ``changed-weights``, ``damaged-weights``, ``other-network``,
            ``unknown-member``.
    """
    if not isinstance(network, Ensemble):
        return _load_file(network, path, device=device)
    there = members_of(path)
    for number in network.members:
        if int(number) not in there:
            known = f"some of {', '.join(map(str, there))}" if there else "none: this bundle holds one network"
            raise InputError("--members", found=f"member {number}", wanted=known, remedy="leave it out for all of them",
                             reason="unknown-member")
    return joint_digest([_load_file(member, weights_of_member(path, int(number)), device=device)
                         for number, member in network.members.items()])


def _load_file(network: torch.nn.Module, path: Path, *, device: torch.device) -> str:
    digest = verified_digest(path)
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files and for pickled code
        raise InputError(path, found=f"a file that holds no plain weights ({type(error).__name__})",
                         wanted="a state dict saved by torch", remedy="unpack the bundle again",
                         reason="damaged-weights") from error
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = str(error).strip().splitlines()
        raise InputError(path, found=f"weights of another network ({' '.join(reason[1:2] or reason).strip()})",
                         wanted="those of `network_def`", remedy="unpack the bundle again, configs and models together",
                         reason="other-network") from error
    return digest


def verified_digest(path: Path) -> str:
    """Returns the SHA-256 of the weights after comparing it with the recorded one, where there is one.

    Raises:
        InputError: ``missing-weights``, ``changed-weights``.
    """
    if not path.is_file():
        raise InputError(path, found="no weights", wanted="a trained bundle",
                         remedy="give the bundle's folder by --bundle_root, or train it first",
                         reason="missing-weights")
    digest = sha256_of_file(path)
    recorded_in = path.with_name(f"{path.name}.sha256")
    if recorded_in.is_file():
        recorded = (recorded_in.read_text(encoding="utf-8").split() or ["nothing"])[0].lower()
        if recorded != digest:
            raise InputError(path, found=f"SHA-256 {digest[:12]}...", wanted=f"{recorded[:12]}..., recorded beside it",
                             remedy="unpack the bundle again", reason="changed-weights")
    return digest

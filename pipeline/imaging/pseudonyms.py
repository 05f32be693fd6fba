"""Names for DICOM scans that tell nothing about the patient: a keyed hash of the series UID."""

import hmac
import os
import secrets
from pathlib import Path

from pipeline.records.errors import InputError

KEY_VARIABLE = "SEGLINE_PSEUDONYM_KEY"
NAME_LENGTH = 16


def pseudonym(series_uid: str) -> str:
    """Returns 16 hex digits: the same for the same series and key, and not to be guessed back without the key.

    The key is the environment variable SEGLINE_PSEUDONYM_KEY, else a random one kept for this user.
    """
    return hmac.digest(_key(), series_uid.encode(), "sha256").hex()[:NAME_LENGTH]


def key_file() -> Path:
    """Returns where this user's random key is kept, honouring XDG_CONFIG_HOME."""
    configured = os.environ.get("XDG_CONFIG_HOME")
    return (Path(configured) if configured else Path.home() / ".config") / "segline" / "pseudonym.key"


def _key() -> bytes:
    given = os.environ.get(KEY_VARIABLE)
    if given:
        return given.encode()
    path = key_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _create_once(path)
        return path.read_bytes()
    except OSError as error:
        raise InputError(path, found=f"no key can be kept here ({error.strerror})", wanted="a private key file",
                         remedy=f"set {KEY_VARIABLE}", reason="no-pseudonym-key") from error


def _create_once(path: Path) -> None:
    """Creates the key with mode 0600; of several processes the first one wins and the others read its key."""
    if path.exists():
        return
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_hex(32).encode())
        os.link(aside, path)
    except FileExistsError:
        pass
    finally:
        aside.unlink()

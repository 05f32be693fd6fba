"""Downloads one file over HTTP(S), whole and with the digest it must have, or leaves nothing."""

import hashlib
import http.client
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from pipeline.records.errors import InputError

CHUNK_BYTES = 1 << 18
PATIENCE_S = 30.0
BY_HAND = "or download it by hand and give it with --from"


@dataclass(frozen=True)
class Download:
    """Where a public archive is, and the MD5 that its publishers give."""

    url: str
    md5: str


def download(wanted: Download, target: Path, *, patience_s: float = PATIENCE_S) -> None:
    """Writes the file at `wanted.url` to `target`; `patience_s` is the longest wait for the next bytes.

    Raises:
        InputError: ``no-connection``, ``http-error``, ``incomplete-download``, ``wrong-digest``; `target` is then gone.
    """
    try:
        digest = _receive(wanted.url, target, patience_s)
        if digest != wanted.md5:
            raise InputError(wanted.url, found=f"MD5 {digest}", wanted=f"MD5 {wanted.md5}", reason="wrong-digest",
                             remedy=f"try again: the file was damaged on its way or has changed; {BY_HAND}")
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _receive(url: str, target: Path, patience_s: float) -> str:
    """Writes the response's body to `target` and returns its MD5."""
    try:
        with urllib.request.urlopen(url, timeout=patience_s) as response:
            return _write_body(response, target, url)
    except urllib.error.HTTPError as error:
        raise InputError(url, found=f"HTTP {error.code} {error.reason}", wanted="the archive", reason="http-error",
                         remedy=f"try later, {BY_HAND}") from error
    except urllib.error.URLError as error:
        raise _no_connection(url, str(error.reason)) from error
    except http.client.IncompleteRead as error:
        raise _incomplete(url, f"{len(error.partial)} bytes of the last part") from error
    except (TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException) as error:
        raise _no_connection(url, str(error) or type(error).__name__) from error


def _write_body(response: http.client.HTTPResponse, target: Path, url: str) -> str:
    announced = response.headers.get("Content-Length", "")
    total = int(announced) if announced.isdecimal() else None
    digest, received = hashlib.md5(usedforsecurity=False), 0
    with target.open("wb") as written, tqdm(total=total, desc="downloading", unit="B", unit_scale=True,
                                            disable=None) as progress:
        while chunk := response.read(CHUNK_BYTES):
            written.write(chunk)
            digest.update(chunk)
            received += len(chunk)
            progress.update(len(chunk))
    if total is not None and received < total:
        raise _incomplete(url, f"{received} bytes", f"{total} bytes")
    return digest.hexdigest()


def _no_connection(url: str, found: str) -> InputError:
    return InputError(url, found=f"no connection ({found})", wanted="a download over the network",
                      remedy=f"check network and proxy (https_proxy), {BY_HAND}", reason="no-connection")


def _incomplete(url: str, found: str, wanted: str = "the whole file") -> InputError:
    return InputError(url, found=f"a download that ended after {found}", wanted=wanted, remedy=f"try again, {BY_HAND}",
                      reason="incomplete-download")

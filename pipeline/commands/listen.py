"""`python -m pipeline listen`: receives studies from an archive, segments them, and sends the results back."""

import argparse
import ipaddress
from importlib.util import find_spec
from pathlib import Path

if find_spec("pynetdicom") is None:
    raise SystemExit("error: pynetdicom is not installed; run `pip install 'segline[archive]'`")

from pipeline.archive.bundle_segmenter import open_bundle
from pipeline.archive.peers import Peers, checked_stow_url, checked_title, parse_address, parse_titles, read_peers
from pipeline.archive.receiver import Door
from pipeline.archive.sender import Destination, DicomDestination, StowDestination
from pipeline.archive.service import ServiceSettings, prepare_process, serve
from pipeline.archive.spool import GIB, SpoolLimits
from pipeline.archive.stopping import stop_on_signals
from pipeline.records.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `python -m pipeline listen` takes."""
    parser.add_argument("--bundle", type=Path, required=True, help="a trained bundle, for instance models/liver_3d")
    parser.add_argument("--spool", type=Path, required=True, help="private folder for what was received")
    results = parser.add_mutually_exclusive_group(required=True)
    results.add_argument("--send-to", metavar="AE@HOST:PORT", help="send results by C-STORE")
    results.add_argument("--stow", metavar="URL", help="send results by DICOMweb, e.g. http://127.0.0.1:8042/dicom-web")
    peers = parser.add_mutually_exclusive_group()
    peers.add_argument("--allow", metavar="AE[,AE]", help="AE titles that may send")
    peers.add_argument("--peers", type=Path, metavar="YAML", help="lines `AE_TITLE: address` of those that may send")
    parser.add_argument("--host", default="127.0.0.1", help="another one needs --allow or --peers")
    parser.add_argument("--port", type=int, default=11112)
    parser.add_argument("--ae-title", default="SEGLINE", help="our own title, which senders must call")
    parser.add_argument("--quiet-seconds", type=float, default=10.0, metavar="S",
                        help="a study is complete when nothing more of it came for so long (default 10)")
    parser.add_argument("--max-associations", type=int, default=4, metavar="N")
    parser.add_argument("--max-studies", type=int, default=100, metavar="N", help="that wait; more are refused")
    parser.add_argument("--min-free-gib", type=float, default=5.0, metavar="G", help="disk space that stays free")
    parser.add_argument("--keep", type=int, default=0, metavar="N", help="studies to keep after they were sent")
    parser.add_argument("--retry", action="store_true", help="try the studies again that failed earlier")


def run(arguments: argparse.Namespace) -> None:
    """Serves until SIGTERM or SIGINT; a second one puts the study at hand back instead of finishing it.

    Raises:
        InputError: an argument, the bundle, the spool or the address cannot be used.
    """
    settings, destination = settings_of(arguments), destination_of(arguments)
    prepare_process()
    segment_study = open_bundle(arguments.bundle)
    serve(settings, segment_study, destination, stop=stop_on_signals())


def settings_of(arguments: argparse.Namespace) -> ServiceSettings:
    """Returns the checked settings; raises `InputError`, ``open-door`` where anyone on the network could send."""
    peers = Peers({})
    if arguments.allow is not None:
        peers = parse_titles(arguments.allow)
    elif arguments.peers is not None:
        peers = read_peers(arguments.peers)
    elif not _is_loopback(arguments.host):
        raise InputError(f"--host {arguments.host}", found="no list of those that may send", reason="open-door",
                         wanted="--allow or --peers with any address but loopback", remedy="name the senders")
    for name in ("max_associations", "max_studies", "port", "keep", "quiet_seconds", "min_free_gib"):
        _refuse_number(name, getattr(arguments, name), least=1 if name.startswith("max_") else 0)
    door = Door(host=arguments.host, port=arguments.port, title=checked_title(arguments.ae_title), peers=peers,
                associations=arguments.max_associations)
    limits = SpoolLimits(studies=arguments.max_studies, free_bytes=int(arguments.min_free_gib * GIB),
                         kept=arguments.keep)
    return ServiceSettings(spool=arguments.spool, door=door, limits=limits, quiet_seconds=arguments.quiet_seconds,
                           retry_failed=arguments.retry)


def destination_of(arguments: argparse.Namespace) -> Destination:
    """Returns where results go; raises `InputError` for a malformed address."""
    if arguments.stow is not None:
        return StowDestination(checked_stow_url(arguments.stow))
    return DicomDestination(parse_address(arguments.send_to), checked_title(arguments.ae_title))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_number(name: str, value: float, *, least: int) -> None:
    most = 65535 if name == "port" else 1e9
    if not least <= value <= most:
        raise InputError(f"--{name.replace('_', '-')}", found=f"{value:g}", wanted=f"a number from {least} to {most:g}",
                         remedy="choose another one", reason="odd-number")

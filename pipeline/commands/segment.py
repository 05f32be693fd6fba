"""`python -m pipeline segment`: scans in, segmentations out; what `python -m monai.bundle run` does, sooner begun."""

import argparse
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.engine.arguments import CHOICES, end_as_if_interrupted, scans_below
from pipeline.records.bundles import member_numbers, require_bundle
from pipeline.records.errors import InputError

SWITCH = ("True", "False")
HELP = {
    "speed": "float32 and the windows of training, reduced precision, or less overlap too (default: fast)",
    "irregular": "DICOM series with missing, tilted or uneven slices (default: refuse)",
    "dicom_seg": "of DICOM scans: labels, probabilities too, or no SEG (default: binary)",
    "resume": "leave out what an earlier run into the same folder did",
    "strict": "refuse DICOM of another modality than the bundle's instead of warning",
    "mirroring": "average over mirrored scans, for 2 to 8 times the work",
    "rtstruct": "of DICOM scans: contours too",
    "probabilities": "write the probability of each class, as NIfTI",
    "uncertainty": "write where the model is undecided, 0 to 1, as NIfTI",
}
# What MONAI imports where it is installed, and inference does not use: two thirds of the time before the first window.
UNUSED = ("ignite", "matplotlib", "mlflow", "pandas", "scipy.signal", "skimage", "sklearn", "tensorboard")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments: those of the bundle's inference config that a person chooses."""
    parser.add_argument("--bundle", type=Path, required=True, help="a trained bundle, for instance models/liver_3d")
    parser.add_argument("--input", type=_path, required=True, help="a scan, a folder at any depth, or a zip archive")
    parser.add_argument("--output_dir", "--output-dir", type=_path, required=True, help="gets a folder for each scan")
    parser.add_argument("--series", help="which DICOM series: UID, number, part of the description, or all")
    # What is not given is left to the bundle.
    parser.add_argument("--members", default=argparse.SUPPRESS, metavar="N[,N]",
                        help="which networks of an ensemble vote, such as 0 or 0,2")
    for name, words in CHOICES.items():
        flags = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
        if words == SWITCH:
            parser.add_argument(*flags, action="store_true", default=argparse.SUPPRESS, help=HELP[name])
        else:
            parser.add_argument(*flags, choices=words, default=argparse.SUPPRESS, help=HELP[name])


def _path(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty path; is a variable not set?")
    return Path(text)


def run(arguments: argparse.Namespace) -> None:
    """Segments scans; ends like `python -m monai.bundle run`.

    Raises:
        SystemExit: 2 if nothing could be started, 1 if a scan failed, 130 if interrupted.
    """
    end_as_if_interrupted()
    try:
        require_bundle(arguments.bundle)
        with unused_packages_hidden():
            from pipeline.bundle import open_segmenter, series_rule_of
        options = {name: getattr(arguments, name) for name in CHOICES if hasattr(arguments, name)}
        if hasattr(arguments, "members"):
            options["members"] = list(member_numbers(arguments.members))
        found = scans_below(arguments.input, arguments.output_dir, rule=series_rule_of(arguments.bundle),
                            strict=options.get("strict", False), series=arguments.series)
        segmenter = open_segmenter(arguments.bundle, **options, found=found, results_dir=arguments.output_dir)
    except InputError as error:
        print(" ".join(str(error).splitlines()), file=sys.stderr)
        raise SystemExit(2) from None
    segmenter.run()


@contextmanager
def unused_packages_hidden() -> Iterator[None]:
    """Makes imports of `UNUSED` fail, as if they were not installed, and leaves out garbage collection meanwhile.

    What is imported lives until the process ends, and nothing is gained by looking through it again and again, the
    last time at the end.
    """
    hidden = [name for name in UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is how Python marks what is not to be had
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
        for name in hidden:
            del sys.modules[name]

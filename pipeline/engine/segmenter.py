"""Inference of a trained bundle: scans in, segmentations on their own grids out, one bad scan stopping no other."""

import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import torch
from tqdm import tqdm

from pipeline.engine.allocator import give_back_freed_memory, keep_freed_memory
from pipeline.engine.confidence import Confidence
from pipeline.engine.earlier import EarlierResults, find_earlier
from pipeline.engine.outputs import LabelNames, OutputSettings
from pipeline.engine.results import SUMMARY, RunFacts, ScanResult, line_of, write_summary
from pipeline.engine.scan_run import Method, Observer, ScanRun, failure
from pipeline.engine.weights import load_weights
from pipeline.imaging.dicom_codes import code_for
from pipeline.imaging.dicom_seg import SegModel
from pipeline.imaging.discovery import Found, Refused
from pipeline.records.errors import InputError
from pipeline.records.files import ASIDE, remove_unfinished
from pipeline.records.postprocessing import EVERYTHING

# The summary of a long run is brought up to date this often, so that a killed run leaves one too.
SUMMARY_EVERY_SECONDS = 10.0


class Segmenter:
    """Segments scans by the bundle's preprocessing, network and windows; MONAI's `evaluator` of the inference config.

    Args:
        found: the scans, and what was found beside them.
        output_dir: gets a folder for each scan, summary.json and summary.csv.
        preprocessing: dictionary transforms for `image`; the first reads the scan.
        network: gets the weights of `checkpoint`.
        inferer: takes ``(1, channels, x, y, z)`` and the network, returns logits ``(1, classes, x, y, z)``.
        device: where network and windows are computed.
        labels: names and values; class k of the network is the k-th smallest value, class 0 background.
        modality: DICOM code of the training scans; another one is a warning.
        checkpoint: the weights, with their digest in ``<checkpoint>.sha256``; an ensemble's lie beside it.
        codes: DICOM codes by label name, for those that the built-in table does not know.
        intensity_range: lowest and highest intensities of the training scans; far from them is a warning.
        name, version: of the model, for DICOM.
        speed, irregular: what inferer and reader were made with, for report.json.
        largest_component: labels of which only the largest component is kept, see `keep_largest`.
        temperature: what logits are divided by for probabilities that mean what they say, see `ConfidenceChoice`.
        least_quality, always_there: a scan of a lower expected Dice, or without one of the labels, is not sure.
        observer: called with each scan's name, label map and probabilities.
        resume: skips scans that an earlier run into `output_dir` did and left intact.
        dicom_seg, rtstruct, probabilities, uncertainty: see `OutputSettings`.
    """

    def __init__(
        self, found: Found, output_dir: Path | str, *, preprocessing: Sequence[Callable[..., Any]],
        network: torch.nn.Module, inferer: Callable[..., torch.Tensor], device: torch.device,
        labels: Mapping[str, int], modality: str, checkpoint: Path | str,
        codes: Mapping[str, Any] | None = None, intensity_range: Sequence[float] | None = None,
        name: str = "Segline", version: str = "0", speed: str = "exact",
        irregular: str = "refuse", resume: bool = False, largest_component: Sequence[str] | None = None,
        temperature: float = 1.0, least_quality: float | None = None, always_there: Sequence[str] = (),
        observer: Observer | None = None, **outputs: Any,
    ) -> None:
        self.found = found
        self.output_dir = Path(output_dir)
        self.resume = resume
        self.checkpoint = Path(checkpoint)
        self.name, self.version = name, version
        reader, *steps = preprocessing
        names = dict(sorted(labels.items(), key=lambda item: item[1]))
        self.parts: dict[str, Any] = {
            "reader": reader, "steps": steps, "network": network, "inferer": inferer, "device": device,
            "modality": modality, "intensity_range": intensity_range, "speed": speed, "irregular": irregular,
            "largest_component": tuple(largest_component or ()), "observer": observer,
            "confidence": Confidence(float(temperature), least_quality, tuple(always_there)),
            "settings": OutputSettings(**outputs),
            "names": LabelNames(names, {label: code_for(label, (codes or {}).get(label)) for label in names}),
        }
        self.method: Method | None = None

    def run(self) -> None:
        """Segments all scans, as `python -m monai.bundle run` asks.

        Raises:
            SystemExit: 2 with one line on stderr if nothing could be started, 1 if a scan failed, 130 if interrupted.
        """
        try:
            results = self.segment_all()
        except InputError as error:
            print(" ".join(str(error).splitlines()), file=sys.stderr)
            raise SystemExit(2) from None
        except OSError as error:  # of the summary: what goes wrong with a scan is that scan's result
            print(f"{self.output_dir / SUMMARY}: cannot be written ({error.strerror}); expected a place for it; what "
                  "is in the scans' folders is whole: make room and go on with --resume", file=sys.stderr)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            print(f"interrupted; what is in {self.output_dir} is whole; go on with --resume", file=sys.stderr)
            raise SystemExit(130) from None
        failed = [result for result in results if result.status == "failed"]
        if failed:
            print(f"{len(failed)} of {len(results)} scans failed; reasons are in {self.output_dir / SUMMARY}",
                  file=sys.stderr)
            raise SystemExit(1)

    def segment_all(self) -> list[ScanResult]:
        """Segments all scans, writes their folders and the summaries, and prints a line for each.

        Raises:
            InputError: weights or output folder cannot be used. A scan that fails raises nothing.
        """
        return self.segment_found(self.found, self.output_dir)

    def segment_found(self, found: Found, output_dir: Path) -> list[ScanResult]:
        """Segments `found` into `output_dir`; the network is loaded at the first call only.

        Raises:
            InputError: as `segment_all`.
        """
        method = self.load()
        _make_folder(output_dir)
        if found.scans and all(scan.series is None for scan in found.scans):
            for option in method.settings.only_for_dicom:
                print(f"{option} does nothing here: none of the scans is DICOM", file=sys.stderr)
        if self.resume:
            remove_unfinished(output_dir)
        run = ScanRun(method, output_dir, find_earlier(output_dir) if self.resume else EarlierResults({}))
        facts = RunFacts(method.model.digest, len(found.scans) + len(found.refused), found.set_aside,
                         list(method.names.values))
        keep_freed_memory()
        results = [_refused(refused) for refused in found.refused]
        for result in results:
            tqdm.write(line_of(result))
        written = monotonic()
        was_frozen = gc.get_freeze_count()
        gc.freeze()  # or each collection, as the objects of headers bring about, walks through all that MONAI imports
        try:
            with tqdm(total=facts.expected, initial=len(results), unit="scan", leave=False, disable=None) as bar:
                for result in run.results(found.scans):
                    results.append(result)
                    tqdm.write(f"[{len(results)}/{facts.expected}] {line_of(result)}")
                    bar.update()
                    if monotonic() - written > SUMMARY_EVERY_SECONDS:
                        write_summary(output_dir, results, facts)
                        written = monotonic()
        finally:
            # An interruption comes between a scan that was finished and its line.
            results += [result for result in run.finished if result not in results]
            write_summary(output_dir, results, facts)
            give_back_freed_memory()  # a service waits for hours between two scans
            if not was_frozen:
                gc.unfreeze()
        return results

    def load(self) -> Method:
        """Loads the network where that is not done yet, and returns all that is the same for every scan.

        Raises:
            InputError: as `load_weights`; ``no-mirroring``: the model may not be mirrored; ``unknown-label``.
        """
        for name in self.parts["largest_component"]:
            if name not in (EVERYTHING, *self.parts["names"].values):
                raise InputError("largest_component", found=f"`{name}`", reason="unknown-label", remedy="name a label",
                                 wanted=f"some of {', '.join(self.parts['names'].values)}, or {EVERYTHING}")
        mirrors = getattr(self.parts["inferer"], "mirrors", None)
        if mirrors is not None and not mirrors.axes:
            raise InputError("--mirroring", found="a model that was trained without mirroring", reason="no-mirroring",
                             wanted="one whose plan has `mirror_axes`", remedy="leave --mirroring out")
        if self.method is None:
            network = self.parts["network"]
            digest = load_weights(network, self.checkpoint, device=self.parts["device"])
            network.eval()
            self.method = Method(**self.parts, model=SegModel(self.name, self.version, digest))
        return self.method


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=ASIDE, dir=folder):
            pass  # before hours of work, not after
    except OSError as error:
        raise InputError(folder, found=f"no folder can be made ({error.strerror})", wanted="a folder for the results",
                         remedy="choose another --output_dir", reason="unwritable-output") from error


def _refused(refused: Refused) -> ScanResult:
    return failure(refused.relative, refused.relative, refused.error, {})

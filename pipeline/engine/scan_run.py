"""One pass over scans: each is read, segmented and written, and whatever goes wrong with it is its result."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.engine.allocator import give_back_freed_memory
from pipeline.engine.components import keep_largest
from pipeline.engine.confidence import Confidence, expected_dice, quality_of, rounded
from pipeline.engine.conveyor import conveyed
from pipeline.engine.earlier import EarlierResults, free_folder, state_of
from pipeline.engine.labelling import class_probabilities, label_scan
from pipeline.engine.memory import COPIES_OF_SCORES, free_bytes
from pipeline.engine.mirroring import Mirrors
from pipeline.engine.outputs import (
    NOTICE,
    LabelNames,
    OutputSettings,
    Segmented,
    content_digest,
    geometry_of,
    measured,
    write_images,
    write_report,
)
from pipeline.engine.results import ScanResult, reason_and_message, sizes_of
from pipeline.imaging.dicom_seg import SegModel
from pipeline.imaging.discovery import ScanLocation
from pipeline.imaging.intensities import unusual_intensities
from pipeline.imaging.scans import Scan
from pipeline.imaging.series_choice import IMAGE_MODALITIES
from pipeline.records.errors import input_error_behind
from pipeline.records.files import folder_written_aside, sha256_of_text
from pipeline.records.sides import LEFT_RIGHT, WITHOUT_SIDES

# Takes a scan's name, its label map and the probabilities of its classes, as in `Segmented`.
Observer = Callable[[str, NDArray[np.integer[Any]], Sequence[NDArray[np.float32]]], None]
logger = logging.getLogger(__name__)
IMAGE = "image"
# Of three scans in flight, with what is made of each.
COPIES_OF_SCAN = 6
# Of a scan of so many bytes and more, what a phase has freed is not kept for the next: it would add up.
LARGE_SCAN_BYTES = 2**26


@dataclass(frozen=True)
class Method:
    """All that is the same for every scan: `Segmenter` explains the fields.

    `reader` is the first step of the preprocessing, `steps` are the others.
    """

    reader: Callable[..., Any]
    steps: Sequence[Callable[..., Any]]
    network: torch.nn.Module
    inferer: Callable[..., torch.Tensor]
    device: torch.device
    names: LabelNames
    modality: str
    intensity_range: Sequence[float] | None
    speed: str
    irregular: str
    largest_component: tuple[str, ...]
    confidence: Confidence
    observer: Observer | None
    settings: OutputSettings
    model: SegModel

    @property
    def mirrors(self) -> Mirrors | None:
        """The ways to mirror that the inferer averages over, None where it does not."""
        return getattr(self.inferer, "mirrors", None)

    def may_mirror(self, scan: Scan) -> bool:
        """Returns whether the mirrored scan is one as the model knows them: its left and right must be known."""
        is_sided = self.mirrors is not None and LEFT_RIGHT in self.mirrors.axes and self.modality not in WITHOUT_SIDES
        return scan.has_place or not is_sided

    @property
    def choices(self) -> dict[str, Any]:
        """What of all this a person may choose and a result depends on: a result of other choices is another result.

        `method` is a digest of what is rarely chosen: steps, windows, codes and the program's version.
        """
        parts = [version("segline"), self.names, self.confidence, self.intensity_range, self.modality,
                 vars(self.inferer), *((type(step).__name__, vars(step)) for step in (self.reader, *self.steps))]
        return {"speed": self.speed, "irregular": self.irregular, "mirroring": self.mirrors is not None,
                "largest_component": list(self.largest_component), **asdict(self.settings),
                "method": sha256_of_text(json.dumps(parts, default=_plain, sort_keys=True))}


def _plain(value: object) -> object:
    """Returns what JSON can hold, the same for equal values: sets in order, objects by their fields."""
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    return vars(value) if hasattr(value, "__dict__") else str(value)


@dataclass(frozen=True)
class _Read:
    """A scan with its preprocessing's input, or how it failed.

    Failures are kept as results, not as exceptions: those would hold on to the tensors of the frames they came through.
    """

    location: ScanLocation
    state: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failed: ScanResult | None = None


@dataclass(frozen=True)
class _Labelled:
    """What the network found in a scan, or how it failed."""

    read: _Read
    found: Segmented | None = None
    failed: ScanResult | None = None


@dataclass
class ScanRun:
    """One pass over scans into one output folder; `finished` also has what an interruption kept from being yielded."""

    method: Method
    output_dir: Path
    earlier: EarlierResults
    coming: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    finished: list[ScanResult] = field(default_factory=list)
    digests: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "digest"))

    def results(self, scans: Sequence[ScanLocation]) -> Iterator[ScanResult]:
        """Yields how each scan ended, first those that an earlier run did."""
        kept = {location.name: result for location in scans if (result := self._kept(location)) is not None}
        self.used = {result.folder.name.casefold() for result in kept.values() if result.folder}
        yield from kept.values()
        left = [location for location in scans if location.name not in kept]
        self.coming = [location.name.casefold() for location in left]
        yield from conveyed(left, prepare=self._read, compute=self._labelled, finish=self._written,
                            may_overlap=self._has_room)

    def _has_room(self, read: _Read) -> bool:
        """Returns whether memory allows to hold more scans like this one, each with its class scores."""
        free = free_bytes(torch.device("cpu"))
        if read.failed is not None or free is None:
            return True
        copies = COPIES_OF_SCAN + COPIES_OF_SCORES * (len(self.method.names.values) + 1)
        scan: Scan = read.data[f"{IMAGE}_scan"]
        return copies * scan.array.nbytes < free

    def _kept(self, location: ScanLocation) -> ScanResult | None:
        try:
            return self.earlier.result_of(location, settings=self.method.choices,
                                          model_sha256=self.method.model.digest)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # a file that the reader will name, or a report that is none of ours

    def _read(self, location: ScanLocation) -> _Read:
        seconds: dict[str, float] = {}
        try:
            with _timed(seconds, "read"):
                state = state_of(location)  # first: a file that is replaced meanwhile is not the one that was read
                data = self.method.reader({IMAGE: location})
            return _Read(location, state, data, seconds)
        except Exception as error:
            return _Read(location, failed=failure(location.name, location.relative, error, seconds))

    def _labelled(self, read: _Read) -> _Labelled:
        if read.failed is not None:
            return _Labelled(read, failed=read.failed)
        try:
            with torch.inference_mode():
                return _Labelled(read, self._found(read.location.name, read.data, read.seconds))
        except Exception as error:
            return _Labelled(read, failed=failure(read.location.name, read.location.relative, error, read.seconds))
        finally:
            read.data.clear()

    def _found(self, name: str, data: dict[str, Any], seconds: dict[str, float]) -> Segmented:
        scan: Scan = data[f"{IMAGE}_scan"]
        is_large = scan.array.nbytes >= LARGE_SCAN_BYTES
        with _timed(seconds, "preprocess"):
            for step in self.method.steps:
                data = step(data)
        if is_large:
            give_back_freed_memory()
        with _timed(seconds, "network"):
            inputs = data.pop(IMAGE)[None].to(self.method.device)
            inferer: Any = self.method.inferer
            inferer = inferer if self.method.may_mirror(scan) else inferer.without_mirrors()
            logits = torch.as_tensor(inferer(inputs, self.method.network))[0].float()
            del inputs
        if is_large:
            give_back_freed_memory()
        regrid = data[f"{IMAGE}_regrid"]
        if logits.shape != (len(self.method.names.values) + 1, *regrid.shape):
            raise RuntimeError(f"network output {tuple(logits.shape)} does not fit {len(self.method.names.values)} "
                               f"labels on a grid of {regrid.shape}")
        with _timed(seconds, "restore"):
            temperature = self.method.confidence.temperature
            expected = dict(zip(self.method.names.values, expected_dice(logits, temperature), strict=True))
            wanted = self.method.observer is not None or self.method.settings.needs_probabilities(scan)
            probabilities = tuple(class_probabilities(logits / temperature, regrid)) if wanted else ()
            labels = label_scan(logits, regrid, values=list(self.method.names.values.values()))
            keep_largest(labels.labelmap[labels.box], self.method.largest_component, self.method.names.values)
        if self.method.observer is not None:
            self.method.observer(name, labels.labelmap, probabilities)
        return Segmented(scan, labels.labelmap, labels.box, probabilities, expected)

    def _written(self, labelled: _Labelled) -> ScanResult:
        """Writes one scan's folder; whatever goes wrong becomes a failed result."""
        location = labelled.read.location
        self.coming.remove(location.name.casefold())
        try:
            found = labelled.found
            result = labelled.failed if found is None else self._result(found, labelled.read)
            assert result is not None, "what is not found has failed"
        except Exception as error:
            result = failure(location.name, location.relative, error, labelled.read.seconds)
        self.finished.append(result)
        return result

    def _result(self, found: Segmented, read: _Read) -> ScanResult:
        location, scan = read.location, found.scan
        # Not beside the network, whose threads wait for the slowest of them.
        digesting = self.digests.submit(content_digest, scan)
        numbers = measured(found, self.method.names.values)
        quality = quality_of(list(found.expected_dice.values()))
        unsure = self.method.confidence.doubts(found.expected_dice, quality)
        warnings = [*scan.warnings, *self._doubts(scan), *unsure]
        # Of a series that is no regular volume, what was done about it may be anything that its warnings say.
        is_mended = self.method.irregular == "resample" and scan.planes is not None and bool(scan.warnings)
        low_confidence = not scan.has_place or is_mended or len(warnings) > len(scan.warnings)
        target = free_folder(self.output_dir, location.name, content_digest=digesting.result,
                             taken=self.used | set(self.coming))
        self.used.add(target.name.casefold())
        with folder_written_aside(target) as aside:
            with _timed(read.seconds, "write"):
                write_images(aside, found, self.method.names, settings=self.method.settings, model=self.method.model)
            write_report(aside, {
                "input": location.relative,
                "input_sha256": digesting.result(),
                "input_state": read.state,
                "notice": NOTICE,
                "model_sha256": self.method.model.digest,
                "modality": {"scan": scan.modality, "model": self.method.modality},
                "geometry": geometry_of(scan),
                "labels": numbers,
                "expected_dice": rounded(quality),
                "low_confidence": low_confidence,
                "warnings": warnings,
                "seconds": {phase: round(value, 3) for phase, value in read.seconds.items()},
                "settings": self.method.choices,
            })
        return ScanResult(location.name, location.relative, "ok", target, None, None, read.seconds, *sizes_of(numbers),
                          warnings, low_confidence, rounded(quality))

    def _doubts(self, scan: Scan) -> Iterator[str]:
        """Yields in what the scan is unlike those the model was trained on."""
        if not self.method.may_mirror(scan):
            yield "not mirrored: the file does not say which side is left"
        is_code = self.method.modality in IMAGE_MODALITIES
        if scan.modality and is_code and scan.modality != self.method.modality:
            yield f"modality {scan.modality}: the model was trained on {self.method.modality}"
        if self.method.intensity_range is not None:
            yield from unusual_intensities(scan.array, self.method.intensity_range)


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    start = perf_counter()
    try:
        yield
    finally:
        seconds[phase] = perf_counter() - start


def failure(name: str, relative: str, error: BaseException, seconds: Mapping[str, float]) -> ScanResult:
    """Returns the result of a scan that an exception ended."""
    logger.debug("scan failed", exc_info=error)
    reason, message = reason_and_message(error)
    behind = input_error_behind(error)
    # The terminal may show what files may not: lists of series, and what an unexpected error says.
    listed = behind.where.partition(" [")[2].rstrip("]") if behind else ""
    details = str(error) if reason == "unexpected-error" else listed
    return ScanResult(name, relative, "failed", None, reason, message, dict(seconds), {}, {},
                      details=" ".join(details.split()))

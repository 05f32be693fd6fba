"""One pass over scans: each is read, segmented and written, and whatever goes wrong with it is its result."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from pipeline.engine.conveyor import conveyed
from pipeline.engine.earlier import EarlierResults, free_folder, state_of
from pipeline.engine.labelling import class_probabilities, label_scan
from pipeline.engine.memory import free_bytes
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
from pipeline.engine.results import ScanResult, reason_and_message
from pipeline.imaging.dicom_seg import SegModel
from pipeline.imaging.discovery import ScanLocation
from pipeline.imaging.intensities import unusual_intensities
from pipeline.imaging.scans import Scan
from pipeline.records.errors import InputError
from pipeline.records.files import folder_written_aside

logger = logging.getLogger(__name__)
IMAGE = "image"
# The next scan is read beside the current one while a scan's memory fits so many times into what is free.
ROOM_FOR_SCANS = 6


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
    settings: OutputSettings
    model: SegModel


@dataclass(frozen=True)
class _Read:
    """A scan with its preprocessing's input, or the error that came instead."""

    location: ScanLocation
    data: dict[str, Any] = field(default_factory=dict)
    digest: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    error: BaseException | None = None


@dataclass(frozen=True)
class _Labelled:
    """What the network found in a scan, or the error that came instead."""

    read: _Read
    found: Segmented | None = None
    error: BaseException | None = None


@dataclass
class ScanRun:
    """One pass over scans into one output folder."""

    method: Method
    output_dir: Path
    earlier: EarlierResults
    coming: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def results(self, scans: Sequence[ScanLocation]) -> Iterator[ScanResult]:
        """Yields how each scan ended, first those that an earlier run did."""
        kept = {location.name: result for location in scans if (result := self._kept(location)) is not None}
        self.used = {result.folder.name.casefold() for result in kept.values() if result.folder}
        yield from kept.values()
        left = [location for location in scans if location.name not in kept]
        self.coming = [location.name.casefold() for location in left]
        yield from conveyed(left, prepare=self._read, compute=self._labelled, finish=self._written,
                            may_overlap=_has_room)

    def _kept(self, location: ScanLocation) -> ScanResult | None:
        settings = {"speed": self.method.speed, **asdict(self.method.settings)}
        try:
            return self.earlier.result_of(location, settings=settings, model_sha256=self.method.model.digest)
        except OSError:
            return None  # the reader says what is wrong with the file

    def _read(self, location: ScanLocation) -> _Read:
        seconds: dict[str, float] = {}
        try:
            with _timed(seconds, "read"):
                data = self.method.reader({IMAGE: location})
                digest = content_digest(data[f"{IMAGE}_scan"])
            return _Read(location, data, digest, seconds)
        except Exception as error:
            return _Read(location, seconds=seconds, error=error)

    def _labelled(self, read: _Read) -> _Labelled:
        if read.error is not None:
            return _Labelled(read, error=read.error)
        try:
            with torch.inference_mode():
                return _Labelled(read, self._found(read.data, read.seconds))
        except Exception as error:
            return _Labelled(read, error=error)
        finally:
            read.data.clear()

    def _found(self, data: dict[str, Any], seconds: dict[str, float]) -> Segmented:
        scan: Scan = data[f"{IMAGE}_scan"]
        with _timed(seconds, "preprocess"):
            for step in self.method.steps:
                data = step(data)
        with _timed(seconds, "network"):
            inputs = data.pop(IMAGE)[None].to(self.method.device)
            logits = torch.as_tensor(self.method.inferer(inputs, self.method.network))[0].float()
        regrid = data[f"{IMAGE}_regrid"]
        if logits.shape != (len(self.method.names.values) + 1, *regrid.shape):
            raise RuntimeError(f"network output {tuple(logits.shape)} does not fit {len(self.method.names.values)} "
                               f"labels on a grid of {regrid.shape}")
        with _timed(seconds, "restore"):
            wanted = self.method.settings.needs_probabilities(scan)
            probabilities = tuple(class_probabilities(logits, regrid)) if wanted else ()
            labelling = label_scan(logits, regrid, values=list(self.method.names.values.values()))
        return Segmented(scan, labelling.labelmap, labelling.box, probabilities)

    def _written(self, labelled: _Labelled) -> ScanResult:
        """Writes one scan's folder; whatever went or goes wrong becomes a failed result."""
        read, location = labelled.read, labelled.read.location
        self.coming.remove(location.name.casefold())
        try:
            if labelled.found is None:
                raise labelled.error or RuntimeError("no result")
            return self._result(labelled.found, read)
        except Exception as error:
            logger.debug("scan failed", exc_info=True)
            return failure(location.name, location.relative, error, location.path, read.seconds)

    def _result(self, found: Segmented, read: _Read) -> ScanResult:
        location, scan = read.location, found.scan
        numbers = measured(found, self.method.names.values)
        warnings = [*scan.warnings, *self._doubts(scan)]
        has_place = scan.qform_code > 0 or scan.sform_code > 0
        low_confidence = not has_place or (scan.planes is not None and scan.planes.is_resampled) or bool(
            [warning for warning in warnings if warning not in scan.warnings])
        target = free_folder(self.output_dir, location.name, content_digest=read.digest,
                             taken=self.used | set(self.coming))
        self.used.add(target.name.casefold())
        with folder_written_aside(target) as aside:
            with _timed(read.seconds, "write"):
                write_images(aside, found, self.method.names, settings=self.method.settings, model=self.method.model)
            write_report(aside, {
                "input": location.relative,
                "input_sha256": read.digest,
                "input_state": state_of(location),
                "notice": NOTICE,
                "model_sha256": self.method.model.digest,
                "modality": {"scan": scan.modality, "model": self.method.modality},
                "geometry": geometry_of(scan),
                "labels": numbers,
                "low_confidence": low_confidence,
                "warnings": warnings,
                "seconds": {phase: round(value, 3) for phase, value in read.seconds.items()},
            }, settings=self.method.settings, speed=self.method.speed)
        volumes = {name: entry["volume_ml"] for name, entry in numbers.items()}
        return ScanResult(location.name, location.relative, "ok", target, None, None, read.seconds, volumes, warnings,
                          low_confidence)

    def _doubts(self, scan: Scan) -> Iterator[str]:
        """Yields in what the scan is unlike those the model was trained on."""
        if scan.modality and scan.modality != self.method.modality:
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


def _has_room(read: _Read) -> bool:
    """Returns whether memory allows to hold more scans like this one."""
    free = free_bytes(torch.device("cpu"))
    return read.error is not None or free is None or ROOM_FOR_SCANS * read.data[f"{IMAGE}_scan"].array.nbytes < free


def failure(name: str, relative: str, error: BaseException, path: Path, seconds: dict[str, float]) -> ScanResult:
    """Returns the result of a scan that an exception ended."""
    reason, message = reason_and_message(error, path)
    listed = error.where.partition(" [")[2].rstrip("]") if isinstance(error, InputError) else ""
    return ScanResult(name, relative, "failed", None, reason, message, seconds, {}, details=listed)

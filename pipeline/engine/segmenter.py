"""Inference of a trained bundle: scans in, segmentations on their own grids out, one bad scan stopping no other."""

import hashlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd
from numpy.typing import NDArray

from pipeline.engine.results import (
    NOTICE,
    REPORT,
    SUMMARY,
    ScanResult,
    free_folder,
    geometry_of,
    measured,
    reason_and_message,
    write_preview,
    write_segmentation,
    write_summary,
)
from pipeline.engine.weights import load_weights
from pipeline.imaging.discovery import ScanLocation
from pipeline.imaging.scans import Scan
from pipeline.imaging.transforms import scan_of
from pipeline.records.errors import InputError
from pipeline.records.files import folder_written_aside, write_json

logger = logging.getLogger(__name__)
IMAGE = "image"


class Segmenter:
    """Segments scans by the bundle's preprocessing, network and windows; MONAI's `evaluator` of the inference config.

    Args:
        scans: what to segment.
        output_dir: gets a folder for each scan and summary.json.
        preprocessing: dictionary transforms for `image`; the first reads the scan.
        network: gets the weights of `checkpoint`.
        inferer: takes ``(1, 1, x, y, z)`` and the network, returns logits ``(1, classes, x, y, z)``.
        device: where network and windows are computed.
        labels: names and values; class k of the network is the k-th smallest value, class 0 background.
        modality: DICOM code of the training scans; another one is a warning.
        checkpoint: the weights, with their digest in ``<checkpoint>.sha256``.
    """

    def __init__(
        self, scans: Sequence[ScanLocation], output_dir: Path | str, *, preprocessing: Sequence[Callable[..., Any]],
        network: torch.nn.Module, inferer: Callable[..., torch.Tensor], device: torch.device,
        labels: Mapping[str, int], modality: str, checkpoint: Path | str,
    ) -> None:
        self.scans = [scans[i] for i in range(len(scans))]
        self.output_dir = Path(output_dir)
        self.reader, *self.steps = preprocessing
        self.network = network
        self.inferer = inferer
        self.device = device
        self.labels = dict(sorted(labels.items(), key=lambda item: item[1]))
        self.modality = modality
        self.checkpoint = Path(checkpoint)
        self.restore = Invertd(keys="pred", transform=Compose(self.steps), orig_keys=IMAGE, nearest_interp=False)

    def run(self) -> None:
        """Segments all scans, as `python -m monai.bundle run` asks.

        Raises:
            SystemExit: 2 with one line on stderr if nothing could be started, 1 if a scan failed.
        """
        try:
            results = self.segment_all()
        except InputError as error:
            print(" ".join(str(error).splitlines()), file=sys.stderr)
            raise SystemExit(2) from None
        failed = [result for result in results if result.status == "failed"]
        if failed:
            print(f"{len(failed)} of {len(results)} scans failed; reasons are in {self.output_dir / SUMMARY}",
                  file=sys.stderr)
            raise SystemExit(1)

    def segment_all(self) -> list[ScanResult]:
        """Segments all scans, writes their folders and summary.json, and prints a line for each.

        Raises:
            InputError: weights or output folder cannot be used. A scan that fails raises nothing.
        """
        digest = load_weights(self.network, self.checkpoint, device=self.device)
        self.network.eval()
        _make_folder(self.output_dir)
        results: list[ScanResult] = []
        for count, location in enumerate(self.scans, start=1):
            used = {result.folder.name.casefold() for result in results if result.folder}
            coming = {later.name.casefold() for later in self.scans[count:]}
            result = self._segment_or_record(location, digest, taken=used | coming)
            results.append(result)
            print(f"[{count}/{len(self.scans)}] {_line(result)}", flush=True)
        write_summary(self.output_dir / SUMMARY, results, model_sha256=digest)
        return results

    def _segment_or_record(self, location: ScanLocation, digest: str, *, taken: set[str]) -> ScanResult:
        """Segments one scan; whatever goes wrong becomes a failed result."""
        seconds: dict[str, float] = {}
        try:
            return self._segment(location, digest, seconds, taken=taken)
        except Exception as error:
            logger.debug("scan failed", exc_info=True)
            reason, message = reason_and_message(error, location.path)
        return ScanResult(location.name, location.relative, "failed", None, reason, message, seconds, {})

    def _segment(
        self, location: ScanLocation, digest: str, seconds: dict[str, float], *, taken: set[str]
    ) -> ScanResult:
        labelmap, scan = self._labelmap(location.path, seconds)
        found = measured(labelmap, self.labels, scan)
        warnings = [*scan.warnings, *_modality_warning(scan.modality, self.modality)]
        content = _content_digest(scan)
        target = free_folder(self.output_dir, location.name, content_digest=content, taken=taken)
        with folder_written_aside(target) as aside:
            with _timed(seconds, "write"):
                write_segmentation(aside, labelmap, scan)
                write_preview(aside, labelmap, scan, values=list(self.labels.values()))
            write_json(aside / REPORT, {
                "input": location.relative,
                "input_sha256": content,
                "notice": NOTICE,
                "model_sha256": digest,
                "modality": {"scan": scan.modality, "model": self.modality},
                "geometry": geometry_of(scan),
                "labels": found,
                "seconds": {phase: round(value, 3) for phase, value in seconds.items()},
                "warnings": warnings,
            })
        volumes = {name: entry["volume_ml"] for name, entry in found.items()}
        return ScanResult(location.name, location.relative, "ok", target, None, None, seconds, volumes, warnings)

    def _labelmap(self, path: Path, seconds: dict[str, float]) -> tuple[NDArray[np.integer[Any]], Scan]:
        """Returns label values ``(x, y, z)`` and the scan whose grid they are on; notes each phase's seconds."""
        with torch.inference_mode():
            with _timed(seconds, "read"):
                data = self.reader({IMAGE: path})
                scan = scan_of(data[IMAGE], path)
            with _timed(seconds, "preprocess"):
                for step in self.steps:
                    data = step(data)
            with _timed(seconds, "network"):
                probabilities = self._probabilities(data[IMAGE])
            with _timed(seconds, "restore"):
                return self._on_own_grid(probabilities, data[IMAGE], scan), scan

    def _probabilities(self, image: MetaTensor) -> torch.Tensor:
        """Returns ``(classes, x, y, z)`` on the preprocessed grid."""
        inputs = image.as_tensor()[None].to(self.device)
        logits = self.inferer(inputs, self.network)
        return torch.as_tensor(logits)[0].float().softmax(dim=0).cpu()

    def _on_own_grid(self, probabilities: torch.Tensor, image: MetaTensor, scan: Scan) -> NDArray[np.integer[Any]]:
        """Returns label values ``(x, y, z)`` on the scan's grid: the likeliest class after linear resampling."""
        pred = MetaTensor(probabilities, affine=image.affine)
        restored = self.restore({IMAGE: image, "pred": pred})["pred"].as_tensor()
        if restored.shape[0] != len(self.labels) + 1 or restored.shape[1:] != scan.array.shape:
            raise RuntimeError(f"network output {tuple(restored.shape)} does not fit {len(self.labels)} labels "
                               f"and scan shape {scan.array.shape}")
        values = [0, *self.labels.values()]
        dtype = np.uint8 if values[-1] <= 255 else np.uint16
        best, labelmap = restored[0].numpy(), np.zeros(scan.array.shape, dtype=dtype)
        # Much faster than argmax along the first axis, with the same result: ties stay with the smaller class.
        for value, probability in zip(values[1:], restored[1:].numpy(), strict=True):
            labelmap[probability > best] = value
            best = np.maximum(best, probability)
        return labelmap


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    start = perf_counter()
    try:
        yield
    finally:
        seconds[phase] = perf_counter() - start


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(folder, found=f"no folder can be made ({error.strerror})", wanted="a folder for the results",
                         remedy="choose another --output_dir", reason="unwritable-output") from error


def _content_digest(scan: Scan) -> str:
    """Returns the SHA-256 of voxels and grid: the same scan, wherever it lies and however it is stored."""
    digest = hashlib.sha256(scan.affine.tobytes())
    digest.update(str(scan.array.shape).encode())
    digest.update(np.ascontiguousarray(scan.array).data)
    return digest.hexdigest()


def _modality_warning(found: str | None, trained: str) -> Iterator[str]:
    if found and found != trained:
        yield f"modality {found}: the model was trained on {trained}"


def _line(result: ScanResult) -> str:
    if result.status == "failed":
        return f"{result.relative}: failed: {result.message}"
    volumes = ", ".join(f"{name} {volume:.2f} mL" for name, volume in result.volumes_ml.items())
    return f"{result.relative}: {volumes} ({sum(result.seconds.values()):.1f} s)"

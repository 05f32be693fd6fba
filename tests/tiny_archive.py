"""A tiny archive for tests: sends studies by C-STORE, takes results, and runs the service with a fake segmenter.

As a script it serves until it is stopped or killed: `python tiny_archive.py SPOOL DESTINATION_PORT QUIET_SECONDS HOLD`;
while the file HOLD exists, segmenting does not end.
"""

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from socketserver import BaseServer
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.transport import ThreadedAssociationServer
from tiny_dicom import slice_dataset

from pipeline.archive import service
from pipeline.archive.outcomes import SegmentStudy, StudyOutcome
from pipeline.archive.peers import Address
from pipeline.archive.receiver import Door
from pipeline.archive.sender import Destination, DicomDestination
from pipeline.archive.service import ServiceSettings, prepare_process, serve
from pipeline.archive.spool import SpoolLimits
from pipeline.archive.stopping import Stop, stop_on_signals
from pipeline.archive.worker import Retries

PATIENT = "Smith^John"
SEG_CLASS = "1.2.840.10008.5.1.4.1.1.66.4"
NO_LIMITS = SpoolLimits(free_bytes=0)
DEADLINE_SECONDS = 30.0
TICK_SECONDS = 0.03


def ct_study(study_uid: str, slices: int = 3) -> list[Dataset]:
    """Returns the slices of a study of one series, with a patient."""
    datasets = [slice_dataset(number, series_uid=f"{study_uid}.1") for number in range(slices)]
    for content in datasets:
        content.StudyInstanceUID = study_uid
        content.PatientName, content.PatientID = PATIENT, "ID4711"
        content.StudyID = content.AccessionNumber = content.ReferringPhysicianName = ""
        content.PatientBirthDate, content.PatientSex, content.StudyDate, content.StudyTime = "", "", "", ""
        content.FrameOfReferenceUID = f"{study_uid}.2"
        content.InstanceNumber, content.SliceThickness = "1", "2.5"
    return datasets


def associate(port: int, datasets: Sequence[Dataset], *, calling: str = "SCANNER", called: str = "SEGLINE") -> Any:
    """Returns an association for the kinds and encodings of the datasets, established or not."""
    entity = AE(ae_title=calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 10
    for kind, syntax in sorted({(str(one.SOPClassUID), str(one.file_meta.TransferSyntaxUID)) for one in datasets}):
        entity.add_requested_context(kind, syntax)
    return entity.associate("127.0.0.1", port, ae_title=called)


def send(port: int, datasets: Sequence[Dataset], *, calling: str = "SCANNER") -> list[int | None]:
    """Sends through one association; returns the statuses, None for no answer."""
    association = associate(port, datasets, calling=calling)
    assert association.is_established
    statuses = [getattr(association.send_c_store(one), "Status", None) if association.is_established else None
                for one in datasets]
    if association.is_established:
        association.release()
    return statuses


def fake_segment(images: Path, output: Path) -> StudyOutcome:
    """Makes an object of the class SEG for each series of CT slices; its label says how many slices there were."""
    series: dict[str, list[Dataset]] = {}
    for path in sorted(images.iterdir()):
        content = pydicom.dcmread(path)
        if content.Modality == "CT":
            series.setdefault(content.SeriesInstanceUID, []).append(content)
    files = []
    for number, slices in enumerate(series.values()):
        result = Dataset()
        result.file_meta = pydicom.dataset.FileMetaDataset()
        result.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        result.file_meta.MediaStorageSOPClassUID = result.SOPClassUID = SEG_CLASS
        result.file_meta.MediaStorageSOPInstanceUID = result.SOPInstanceUID = generate_uid()
        result.StudyInstanceUID, result.SeriesInstanceUID = slices[0].StudyInstanceUID, generate_uid()
        result.Modality, result.ContentLabel, result.PatientID = "SEG", f"SLICES {len(slices)}", slices[0].PatientID
        (output / f"series{number}").mkdir()
        files.append(output / f"series{number}" / "segmentation.dcm")
        result.save_as(files[-1], enforce_file_format=True)
    return StudyOutcome(tuple(files))


def until(condition: Callable[[], Any], what: str) -> Any:
    """Returns the first true value of `condition`; fails after the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
    return value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class QuickServer(ThreadedAssociationServer):
    """One that ends within the interval it was told; pynetdicom's own starter waits half a second."""

    def shutdown(self) -> None:
        BaseServer.shutdown(self)
        self.server_close()


@contextmanager
def taking(statuses: Sequence[int] = (), *, title: str = "PACS") -> Iterator[tuple[int, list[Dataset]]]:
    """Yields port and what is received by an AE that answers with these statuses first, then with success."""
    received: list[Dataset] = []
    answers = list(statuses)

    def handle(event: Any) -> int:
        status = answers.pop(0) if answers else 0x0000
        if status in (0x0000, 0xB000):
            content = event.dataset
            content.file_meta = event.file_meta
            received.append(content)
        return status

    entity = AE(ae_title=title)
    entity.require_called_aet = True
    entity.add_supported_context(SEG_CLASS, ["1.2.840.10008.1.2", ExplicitVRLittleEndian])
    server = entity.make_server(("127.0.0.1", 0), server_class=QuickServer, evt_handlers=[(evt.EVT_C_STORE, handle)])
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield int(server.server_address[1]), received
    finally:
        server.shutdown()
        thread.join()


@contextmanager
def serving(spool: Path, destination: Destination, *, segment: SegmentStudy = fake_segment,
            **changes: Any) -> Iterator[int]:
    """Yields the port of the service, which runs in a thread until the block ends."""
    settings = replace(ServiceSettings(spool, door=Door(port=0), limits=NO_LIMITS, quiet_seconds=0.2,
                                       retries=Retries(3, 0.05)), **changes)
    stop = Stop()
    service.TICK_SECONDS = TICK_SECONDS
    thread = threading.Thread(target=serve, args=(settings, segment, destination), kwargs={"stop": stop})
    thread.start()
    try:
        yield int(until(lambda: listening_port(spool), "a port"))
    finally:
        stop.set()
        thread.join(DEADLINE_SECONDS)
        assert not thread.is_alive()


def status_of(spool: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((spool / "status.json").read_text()))
    except FileNotFoundError:
        return {"state": "not yet"}


def listening_port(spool: Path) -> int | None:
    status = status_of(spool)
    return int(status["port"]) if status["state"] == "listening" else None


def pacs_at(port: int) -> DicomDestination:
    return DicomDestination(Address("PACS", "127.0.0.1", port), "SEGLINE", timeout_seconds=10.0)


def names_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def _main() -> None:
    spool, port, quiet, hold = sys.argv[1:]

    def segment(images: Path, output: Path) -> StudyOutcome:
        until(lambda: not Path(hold).exists(), "leave to go on")
        return fake_segment(images, output)

    prepare_process()
    service.TICK_SECONDS = TICK_SECONDS
    settings = ServiceSettings(Path(spool), door=Door(port=0), limits=NO_LIMITS, quiet_seconds=float(quiet),
                               retries=Retries(3, 0.05))
    serve(settings, segment, pacs_at(int(port)), stop=stop_on_signals())


if __name__ == "__main__":
    _main()

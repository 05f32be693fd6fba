"""With a real archive: Orthanc sends us a study, and finds our segmentation in that study.

Needs Debian's packages `orthanc` and `orthanc-dicomweb`.
"""

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from highdicom.sr.coding import CodedConcept
from pydicom.dataset import Dataset
from tiny_archive import ct_study, free_port, pacs_at, serving, status_of, until

from pipeline.archive.outcomes import StudyOutcome
from pipeline.archive.sender import Destination, StowDestination

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
pytestmark = [
    pytest.mark.skipif(shutil.which("Orthanc") is None, reason="no Orthanc on PATH (Debian's package orthanc)"),
    pytest.mark.skipif(not PLUGIN.exists(), reason="no plugin (Debian's package orthanc-dicomweb)"),
]
ORGAN = CodedConcept("123037004", "SCT", "Anatomical Structure")
LIVER = CodedConcept("10200004", "SCT", "Liver")


class Orthanc:
    """One that runs; its REST API by the standard library."""

    def __init__(self, http_port: int, dicom_port: int) -> None:
        self.url, self.dicom_port = f"http://127.0.0.1:{http_port}", dicom_port
        # Loopback is reached without a proxy.
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(self, path: str, body: bytes | None = None, *, method: str | None = None) -> bytes:
        request = urllib.request.Request(self.url + path, data=body, method=method)
        with self.opener.open(request, timeout=20) as answer:
            return bytes(answer.read())

    def json(self, path: str, content: Any = None, *, method: str | None = None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        return json.loads(self.ask(path, body, method=method) or b"null")

    def answers(self) -> bool:
        try:
            return bool(self.json("/system"))
        except OSError:
            return False

    def upload(self, datasets: list[Dataset]) -> str:
        """Returns Orthanc's own id of the study."""
        for content in datasets:
            stream = BytesIO()
            content.save_as(stream, enforce_file_format=True)
            answer = json.loads(self.ask("/instances", stream.getvalue()))
        return str(answer["ParentStudy"])

    def segmentations(self, study: str) -> list[bytes]:
        """Returns the files of the study's series of modality SEG."""
        series = [one for one in self.json(f"/studies/{study}/series") if one["MainDicomTags"]["Modality"] == "SEG"]
        return [self.ask(f"/instances/{name}/file") for one in series for name in one["Instances"]]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    folder = tmp_path_factory.mktemp("orthanc")
    archive = Orthanc(free_port(), free_port())
    settings = {
        "Name": "test", "StorageDirectory": str(folder), "IndexDirectory": str(folder), "DicomAet": "PACS",
        "HttpPort": int(archive.url.rpartition(":")[2]), "DicomPort": archive.dicom_port, "HttpServerEnabled": True,
        "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "DicomAlwaysAllowStore": True,
        "DicomCheckCalledAet": True, "Plugins": [str(PLUGIN)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        started = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log)
        try:
            until(archive.answers, "Orthanc")
            yield archive
        finally:
            started.kill()  # its own way out takes seconds
            started.wait(20)


def segment_bright(images: Path, output: Path) -> StudyOutcome:
    """Makes a DICOM SEG of one segment: where the stored value is odd."""
    slices = sorted((pydicom.dcmread(path) for path in images.iterdir()), key=lambda one: one.ImagePositionPatient[2])
    algorithm = highdicom.AlgorithmIdentificationSequence("test", LIVER, "1")
    segment = highdicom.seg.SegmentDescription(1, "liver", ORGAN, LIVER, "AUTOMATIC", algorithm)
    mask = np.stack([one.pixel_array % 2 for one in slices]).astype(np.uint8)
    result = highdicom.seg.Segmentation(
        slices, mask, "BINARY", [segment], highdicom.UID(), 100, highdicom.UID(), 1, "Segline", "test", "0", "0")
    (output / "series").mkdir()
    result.save_as(output / "series" / "segmentation.dcm")
    return StudyOutcome((output / "series" / "segmentation.dcm",))


def by_c_store(archive: Orthanc) -> Destination:
    return pacs_at(archive.dicom_port)


def by_stow(archive: Orthanc) -> Destination:
    return StowDestination(f"{archive.url}/dicom-web", timeout_seconds=20.0)


@pytest.mark.parametrize(("uid", "destination_in"), [("1.2.826.1", by_c_store), ("1.2.826.2", by_stow)])
def test_the_archive_gets_the_segmentation_of_the_study_it_sent(
        orthanc: Orthanc, tmp_path: Path, uid: str, destination_in: Callable[[Orthanc], Destination]) -> None:
    study = ct_study(uid)
    name = orthanc.upload(study)
    with serving(tmp_path / "spool", destination_in(orthanc), segment=segment_bright) as door:
        orthanc.json("/modalities/segline", {"AET": "SEGLINE", "Host": "127.0.0.1", "Port": door}, method="PUT")
        sent = orthanc.json("/modalities/segline/store", {"Resources": [name], "Synchronous": True})
        assert (sent["InstancesCount"], sent["FailedInstancesCount"]) == (3, 0)
        until(lambda: orthanc.segmentations(name), "the segmentation in the archive")
        until(lambda: status_of(tmp_path / "spool")["sent"] == 1, "the count")
    [content] = orthanc.segmentations(name)
    result = highdicom.seg.segread(BytesIO(content))
    assert (result.StudyInstanceUID, str(result.PatientName)) == (uid, "Smith^John")
    masks = result.get_pixels_by_source_instance([one.SOPInstanceUID for one in study])[..., 0]
    assert masks.tolist() == [(one.pixel_array % 2).tolist() for one in study]


def test_a_study_with_a_private_object_is_sent_to_its_end(orthanc: Orthanc, tmp_path: Path) -> None:
    study = ct_study("1.2.826.3")
    study[0].SOPClassUID = study[0].file_meta.MediaStorageSOPClassUID = "1.3.12.2.1107.5.9.1"
    name = orthanc.upload(study)
    with serving(tmp_path / "spool", by_c_store(orthanc), quiet_seconds=60.0) as door:
        orthanc.json("/modalities/segline", {"AET": "SEGLINE", "Host": "127.0.0.1", "Port": door}, method="PUT")
        sent = orthanc.json("/modalities/segline/store", {"Resources": [name], "Synchronous": True})
        assert (sent["InstancesCount"], sent["FailedInstancesCount"]) == (3, 0)
    assert len(list((tmp_path / "spool").glob("incoming/*/images/*.dcm"))) == 2


def test_a_refused_association_fails_the_archives_job(orthanc: Orthanc, tmp_path: Path) -> None:
    name = orthanc.upload(ct_study("1.2.826.4"))
    with serving(tmp_path / "spool", by_c_store(orthanc)) as door:
        orthanc.json("/modalities/segline", {"AET": "OTHER", "Host": "127.0.0.1", "Port": door}, method="PUT")
        with pytest.raises(OSError, match="500"):
            orthanc.json("/modalities/segline/store", {"Resources": [name], "Synchronous": True})
    assert not list((tmp_path / "spool").glob("incoming/*"))

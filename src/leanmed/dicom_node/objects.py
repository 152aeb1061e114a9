"""Answers as DICOM objects, by highdicom: SEG of masks, SR (TID 1500) of findings, secondary captures of drawings."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import highdicom as hd
import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    GraphicTypeValues,
    GraphicTypeValues3D,
    ImageRegion,
    ImageRegion3D,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    TextContentItem,
    TrackingIdentifier,
)
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian

from leanmed import __version__
from leanmed.dicom_node import config
from leanmed.dicom_node.journal import made_uid, short_hash
from leanmed.dicom_node.sources import MAKER, Place, lies_somewhere
from leanmed.errors import DataError
from leanmed.manifest import INTENDED_USE, Manifest
from leanmed.tasks.findings import Finding, Findings, Measure

SCHEME = "99LEANMED"  # of codes that no standard has: the artifact's own words
NOTICE = "research use only"
SERIES_NUMBERS = {"sr": 9001, "seg": 9002, "capture": 9003}
MOST_CODE, MOST_MEANING, MOST_DESCRIPTION = 16, 64, 64  # characters
NO_FAMILY = codes.DCM.ArtificialIntelligence
STRUCTURE = Code("49755003", "SCT", "Morphologically Abnormal Structure")
PROCEDURE = Code("363679005", "SCT", "Imaging procedure")
KNOWN_MEASURES = {"Diameter": Code("81827009", "SCT", "Diameter"), "Volume": Code("118565006", "SCT", "Volume")}
UNITS = {
    "1": Code("1", "UCUM", "no units"),
    "mm": Code("mm", "UCUM", "millimeter"),
    "ml": Code("ml", "UCUM", "milliliter"),
}


@dataclass(frozen=True, eq=False)
class Part:
    """What is said of some images.

    Args:
        places: the images, in the order of the mask's slices; one, or those of a scan.
        findings: what is said of them.
        picture: the drawing (h, w, 3) uint8, where it is asked for.
        remark: on images that are unlike those that the model was trained on; empty: none.
    """

    places: tuple[Place, ...]
    findings: Findings
    picture: NDArray[np.uint8] | None = None
    remark: str = ""


@dataclass(frozen=True, eq=False)
class Answerer:
    """What answers say of the artifact.

    Args:
        manifest: of the artifact.
        sha256: of its whole manifest, which names those of the graphs.
        codes: label -> how it is coded.
        set: names the images that were answered: answers to others have other UIDs.
    """

    manifest: Manifest
    sha256: str
    codes: Mapping[str, config.Code]
    set: str

    @property
    def version(self) -> str:
        """Of leanmed and of the graph."""
        graph = next(iter(self.manifest.graphs.values()))
        return f"leanmed {__version__}, graph {graph.sha256[:12]}"

    @property
    def parameters(self) -> dict[str, str]:
        """What an answer depends on."""
        graphs = {f"SHA-256 of {graph.file}": graph.sha256 for graph in self.manifest.graphs.values()}
        least = self.manifest.threshold
        about = {
            "precision": self.manifest.precision,
            "decision threshold": "none" if least is None else f"{least:.6g}",
        }
        return graphs | about

    def code(self, label: str) -> Code:
        """How a label is coded: as the configuration says, or in the artifact's own words."""
        if (known := self.codes.get(label)) is not None:
            return Code(known.value, known.scheme, known.meaning)
        return own_code(label)

    def series_of(self, image: Dataset, form: config.AnswerForm) -> dict[str, Any]:
        """The answer series of one form to an image's series, as highdicom's arguments."""
        number = SERIES_NUMBERS[form]
        described = f"leanmed: {self.manifest.name}"[: MOST_DESCRIPTION - len(NOTICE) - 3]
        return {
            "series_instance_uid": made_uid(str(image.SeriesInstanceUID), self.sha256, form),
            "series_number": number,
            "series_description": f"{described} ({NOTICE})",
            "manufacturer": MAKER,
        }

    def instance(self, image: Dataset, form: config.AnswerForm, number: int) -> dict[str, Any]:
        """The number-th answer of one form to these images: again the same UID, whenever it is made."""
        uid = made_uid(str(image.SeriesInstanceUID), self.sha256, form, self.set, str(number))
        return {"sop_instance_uid": uid, "instance_number": number}


def own_code(words: str) -> Code:
    """Words in which no standard is at home as a code."""
    plain = words if len(words) <= MOST_CODE and words.isascii() and "\\" not in words else short_hash(words)
    return Code(plain[:MOST_CODE], SCHEME, words[:MOST_MEANING])


def objects(parts: Sequence[Part], by: Answerer, forms: Sequence[config.AnswerForm]) -> dict[str, bytes]:
    """File name -> object, of all forms that are asked for and that the answers have."""
    made: dict[str, Dataset] = {}
    for form in forms:
        if form == "sr":
            made["sr-1.dcm"] = report(parts, by)
            continue
        make = mask_object if form == "seg" else capture
        for number, part in enumerate(joined(parts) if form == "seg" else parts, start=1):
            if (found := make(part, by, number)) is not None:
                made[f"{form}-{number}.dcm"] = found
    return {name: _written(dataset) for name, dataset in made.items()}


def _written(dataset: Dataset) -> bytes:
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def joined(parts: Sequence[Part]) -> list[Part]:
    """Masks of images in parallel planes of one frame of reference, or of frames of one, as one stack; others alone."""
    stacks: dict[Any, list[Part]] = {}
    for number, part in enumerate(parts):
        stacks.setdefault(_stack_of(part) or number, []).append(part)
    return [_stacked(stack) if len(stack) > 1 else stack[0] for stack in stacks.values()]


def _stack_of(part: Part) -> tuple[Any, ...] | None:
    """What masks must share to be put into one SEG; None: the part stays alone."""
    place = part.places[0]
    image = place.image
    if len(part.places) > 1 or part.findings.mask is None or not lies_somewhere(image):
        return None
    if place.frame is not None:
        return (str(image.SOPInstanceUID),)
    placed = [*image.get("ImageOrientationPatient", ()), *image.get("PixelSpacing", ())]
    return str(image.FrameOfReferenceUID), image.Rows, image.Columns, *(round(float(value), 4) for value in placed)


def _stacked(stack: Sequence[Part]) -> Part:
    masks = np.concatenate([part.findings.mask for part in stack if part.findings.mask is not None])
    return Part(tuple(part.places[0] for part in stack), Findings((), mask=masks))


def mask_object(part: Part, by: Answerer, number: int) -> Dataset | None:
    """A binary SEG, of a mask; its labels are its segments, in their order.

    Raises:
        DataError: the slices lie in several objects of several frames each, or in frames without a place in the
            patient, which one SEG cannot refer to.
    """
    mask = part.findings.mask
    if mask is None:
        return None
    images, planes = _sources(part.places, mask)
    described = hd.AlgorithmIdentificationSequence(by.manifest.name, NO_FAMILY, by.version, MAKER, by.parameters)
    segments = [
        hd.seg.SegmentDescription(k, label[:MOST_MEANING], STRUCTURE, by.code(label), "AUTOMATIC", described)
        for k, label in enumerate(by.manifest.labels, start=1)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return hd.seg.Segmentation(
            images,
            planes,
            hd.seg.SegmentationTypeValues.BINARY,
            segments,
            manufacturer_model_name=by.manifest.name[:MOST_MEANING],
            software_versions=by.version[:MOST_MEANING],
            device_serial_number=by.sha256[:MOST_CODE],
            content_description=INTENDED_USE[:MOST_MEANING],
            content_label="LEANMED",
            transfer_syntax_uid=ExplicitVRLittleEndian,
            **by.series_of(images[0], "seg"),
            **by.instance(images[0], "seg", number),
        )


def _sources(places: Sequence[Place], mask: NDArray[np.uint8]) -> tuple[list[Dataset], NDArray[np.uint8]]:
    """The objects that a mask lies on, and the mask in the order of their frames: (n, h, w)."""
    images = list({id(place.image): place.image for place in places}.values())
    if all(place.frame is None for place in places):
        return images, mask
    if not lies_somewhere(images[0]):
        raise DataError(
            "expected frames that say where they lie in the patient, since a SEG refers to them by their places, got "
            "none; take `answers: [sr]` for such series"
        )
    if len(images) > 1:
        raise DataError(
            f"expected the slices of a segmented scan in one object, or in one each, got {len(images)} objects of "
            "several frames; export the scan as one object"
        )
    frames = [place.frame or 0 for place in places]
    whole = np.zeros((int(images[0].NumberOfFrames), *mask.shape[1:]), np.uint8)
    whole[frames] = mask
    return images, whole


def report(parts: Sequence[Part], by: Answerer) -> Dataset:
    """A comprehensive 3D SR after TID 1500: a group of measurements for each finding, with the image it lies in."""
    images = list({id(place.image): place.image for part in parts for place in part.places}.values())
    algorithm = AlgorithmIdentification(
        by.manifest.name, by.version, [f"{name}: {value}" for name, value in by.parameters.items()], manufacturer=MAKER
    )
    device = DeviceObserverIdentifyingAttributes(
        made_uid(by.sha256, "device"), by.manifest.name, MAKER, by.manifest.name, by.sha256[:MOST_CODE]
    )
    observer = ObservationContext(ObserverContext(codes.DCM.Device, device))
    said = [(part, finding) for part in parts for finding in part.findings.found]
    listed = said or [(parts[0], _nothing(by))]  # TID 1500 asks for a group
    groups = [_group(finding, part, by, algorithm, n) for n, (part, finding) in enumerate(listed, start=1)]
    content = MeasurementReport(observer, PROCEDURE, groups)
    content[0].ContentSequence.extend(
        TextContentItem(codes.DCM.Comment, words, RelationshipTypeValues.CONTAINS)
        for words in _comments(parts, len(said))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Comprehensive3DSR(
            images,
            content[0],
            is_complete=True,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            **by.series_of(images[0], "sr"),
            **by.instance(images[0], "sr", 1),
        )


def _nothing(by: Answerer) -> Finding:
    return Finding(by.manifest.labels[0], (Measure("Number found", 0.0),))


def _comments(parts: Sequence[Part], count: int) -> list[str]:
    """What a reader must know besides the findings."""
    remarks = list(dict.fromkeys(part.remark for part in parts if part.remark))
    nothing = [] if count else ["Nothing was found that reaches the decision threshold."]
    return [INTENDED_USE, *nothing, *remarks]


def _group(finding: Finding, part: Part, by: Answerer, algorithm: AlgorithmIdentification, number: int) -> Any:
    image = part.places[finding.z].image
    tracked = TrackingIdentifier(made_uid(by.instance(image, "sr", 1)["sop_instance_uid"], str(number)), f"{number}")
    about: dict[str, Any] = {
        "tracking_identifier": tracked,
        "finding_type": by.code(finding.label),
        "algorithm_id": algorithm,
        "measurements": [
            Measurement(KNOWN_MEASURES.get(one.name) or own_code(one.name), one.value, UNITS[one.unit])
            for one in finding.measures
        ],
    }
    region = _region(finding, part)
    if region is not None:
        return PlanarROIMeasurementsAndQualitativeEvaluations(referenced_region=region, **about)
    sources = (
        [_source(place, SourceImageForMeasurementGroup) for place in part.places] if len(part.places) == 1 else None
    )
    return MeasurementsAndQualitativeEvaluations(source_images=sources, **about)


def _region(finding: Finding, part: Part) -> ImageRegion | ImageRegion3D | None:
    """Where a finding lies: a rectangle in an image, or a point in the patient's frame; None: it has no place."""
    if finding.box is not None:
        x1, y1, x2, y2 = finding.box
        corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]])
        return ImageRegion(GraphicTypeValues.POLYLINE, corners, _source(part.places[finding.z], SourceImageForRegion))
    if finding.world is not None:
        frame = str(part.places[0].image.FrameOfReferenceUID)
        return ImageRegion3D(GraphicTypeValues3D.POINT, np.array([finding.world]), frame)
    return None


def _source(place: Place, kind: Any) -> Any:
    image = place.image
    return kind(str(image.SOPClassUID), str(image.SOPInstanceUID), place.frames)


def capture(part: Part, by: Answerer, number: int) -> Dataset | None:
    """A secondary capture of the drawing, where there is one."""
    if part.picture is None:
        return None
    image = part.places[0].image
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = hd.sc.SCImage.from_ref_dataset(
            image,
            part.picture,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=("L", "P"),
            transfer_syntax_uid=ExplicitVRLittleEndian,
            **by.series_of(image, "capture"),
            **by.instance(image, "capture", number),
        )
    if "Laterality" not in made:  # which must be there, if without a value, where the body part may be one of a pair
        made.Laterality = ""
    made.BurnedInAnnotation = "NO"  # what is written below the drawing is the answer, and no patient's name
    return made

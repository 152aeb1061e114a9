"""From a complete series to the objects that answer it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from leanmed.dicom_node.config import Rule
from leanmed.dicom_node.inbox import Outcome, Series
from leanmed.dicom_node.journal import reason_of
from leanmed.dicom_node.objects import Answerer, Part, objects
from leanmed.dicom_node.sources import MAKER, Place, filled, places_of, read_object
from leanmed.errors import ArtifactError, UnsupportedInput
from leanmed.reading.lung_slices import Scan
from leanmed.reading.mr import open_mr
from leanmed.reading.multiframe import as_file, frames_in, one_frame
from leanmed.reading.raster import Limits
from leanmed.runtime.predictor import Predictor
from leanmed.tasks.drawing import as_picture
from leanmed.tasks.findings import Findings, Reportable

WHOLE = ""  # in `refused`: the series, and not one artifact


def answer_series(
    series: Series, rules: Sequence[Rule], predictors: Mapping[str, Predictor], limits: Limits
) -> tuple[dict[str, bytes], Outcome]:
    """Answer a series by every rule that fits it.

    An artifact that fails on the series is refused by name; the others answer all the same.

    Args:
        series: complete.
        rules: see `Rule`.
        predictors: by the artifacts' names.
        limits: of one object.

    Returns:
        File name -> object, and what came of it.
    """
    started = time.perf_counter()
    made: dict[str, bytes] = {}
    refused: dict[str, str] = {}
    for rule, reason in _fitting(series, rules, limits):
        if rule is None:
            refused[WHOLE] = reason
            continue
        try:
            predictor = predictors[rule.artifact]
            by = Answerer(predictor.manifest, predictor.artifact.sha256, rule.codes, series.set)
            parts = answer_parts(predictor, series, limits, pictures="capture" in rule.answers)
            for name, content in objects(parts, by, rule.answers).items():
                made[f"{by.sha256[:12]}-{name}"] = content
        except OSError:
            raise  # the disk; it is tried again
        except Exception as error:  # one artifact that fails must not stand in the way of others and of other series
            refused[rule.artifact] = reason_of(error)
    return made, Outcome(tuple(made), refused, round(time.perf_counter() - started, 3))


def _fitting(series: Series, rules: Sequence[Rule], limits: Limits) -> Iterator[tuple[Rule | None, str]]:
    """The rules that answer a series; if there is none, None and the reason."""
    try:
        first = read_object(series.files[0], limits)
    except Exception as error:  # whatever a file that was sent may hold
        yield None, reason_of(error)
        return
    if str(first.get("Manufacturer") or "") == MAKER:
        yield None, "expected images of a scanner, got an answer of leanmed; do not route answers back to the node"
        return
    fitting = [rule for rule in rules if rule.fits(first)]
    if not fitting:
        modality = str(first.get("Modality") or "none")
        wanted = ", ".join(dict.fromkeys(rule.modality for rule in rules))
        yield (
            None,
            (
                f"expected a series that a rule fits (modality {wanted}, with its description and body part), got one "
                f"of modality {modality}; add a rule, or route such series elsewhere"
            ),
        )
    for rule in fitting:
        yield rule, ""


def answer_parts(predictor: Predictor, series: Series, limits: Limits, *, pictures: bool) -> list[Part]:
    """What an artifact says of a series: of the scan if it looks at scans, or else of each image.

    Raises:
        LeanmedError: the images cannot be read, or are not what the artifact takes; or its answers are of a kind that
            has no form in DICOM.
    """
    if predictor.takes_scans and _count(series, limits) > 1:
        return [_scan_part(predictor, series, limits, pictures)]
    parts = [part for path in series.files for part in _image_parts(predictor, path, limits, pictures)]
    return sorted(parts, key=lambda part: str(part.places[0].image.get("InstanceNumber") or "").zfill(12))


def _image_parts(predictor: Predictor, path: Path, limits: Limits, pictures: bool) -> Iterator[Part]:
    """A part for each frame of one object."""
    image = read_object(path, limits)
    if "PixelData" not in image:
        raise UnsupportedInput("expected images, got an object without pixels; route images alone to the node")
    count = frames_in(image)
    contents = (as_file(one_frame(image, k)) for k in range(count)) if count > 1 else iter([path.read_bytes()])
    answered = [_looked_at(predictor, content, pictures) for content in contents]
    shown = filled(image)
    for k, (findings, picture, remark) in enumerate(answered):
        yield Part((Place(shown, k if count > 1 else None),), findings, picture, remark)


def _count(series: Series, limits: Limits) -> int:
    """How many slices there are; that there are two is enough."""
    return len(series.files) if len(series.files) > 1 else frames_in(read_object(series.files[0], limits))


def _scan_part(predictor: Predictor, series: Series, limits: Limits, pictures: bool) -> Part:
    scan = predictor.open_scan(series.images)
    volume = scan.volume if isinstance(scan, Scan) else open_mr(series.images, limits)
    found = predictor.predict_scan(scan)
    findings = _reported(found, predictor)
    places = places_of(volume.files, volume.frames, limits, volume.grid.spacing[2])
    picture = np.asarray(found.picture().convert("RGB")) if pictures else None
    return Part(places, findings, picture, predictor.remark(found.familiar))


def _looked_at(
    predictor: Predictor, content: bytes, pictures: bool
) -> tuple[Findings, np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | None, str]:
    """Findings, drawing and remark of one image, the bytes of a DICOM file."""
    frame = predictor.frame(content)
    found = predictor.decide(frame)
    placed = found.placed(frame.points) if frame.points else found
    drawn = np.asarray(Image.fromarray(found.draw(as_picture(frame.pixels)))) if pictures else None
    return _reported(placed, predictor), drawn, predictor.remark(found.familiar)


def _reported(found: object, predictor: Predictor) -> Findings:
    if not isinstance(found, Reportable):
        raise ArtifactError(
            f"expected an artifact whose answers can be put into DICOM, got one of the kind {predictor.manifest.task}; "
            "take another artifact, or a newer leanmed"
        )
    return found.findings(predictor.manifest.labels)

"""A mask of one image. numpy and Pillow alone.

A graph gives two images of the size of the one it was shown, both uint8: `mask`, 0 for background and k + 1 for the
label k, and `confidence`, 255 times a probability. With one label that is the label's own, and the mask is where it
reaches the threshold; with several it is the probability of what the mask says, the likeliest.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from leanmed.errors import DataError
from leanmed.manifest import Manifest
from leanmed.tasks.findings import Finding, Findings, Measure
from leanmed.tasks.frames import places_of
from leanmed.tasks.kind import AnswerValue, familiar_of
from leanmed.tasks.segmentation.pieces import Pieces, largest_pieces
from leanmed.tasks.segmentation.scan import MaskedScan, mask_scan

Plane = NDArray[np.uint8]  # (h, w)
GRAPHS = {"model": ("mask", "confidence")}
LEVELS = 255  # of a probability of one
MAX_LABELS = 254
MAX_PIXELS = 2**28  # of a mask in a line of a file of answers
EVEN = 0.5  # the threshold of a mask whose line names none


@dataclass(frozen=True)
class MaskedImage(AnswerValue):
    """What a segmenter says of one image. Masks are held packed, so that ten thousand of them fit into memory.

    Args:
        labels: what the mask's values mean, from 1 on.
        packed: the mask as a PNG: see `mask`.
        packed_confidence: as a PNG: see `confidence`; None: not known.
        threshold: of one label, the least probability that is marked; None: of several labels.
        pieces: which connected pieces of a label are kept. With `image`, the mask holds no others; with `volume` it is
            of a slice and holds all of them, until the slices are put together.

    Raises:
        DataError: no label, no PNG of one channel of at most `MAX_PIXELS`, values without a label, or a confidence of
            another size.
    """

    labels: tuple[str, ...]
    packed: bytes
    packed_confidence: bytes | None = None
    threshold: float | None = None
    pieces: Pieces = "all"

    def __post_init__(self) -> None:
        mask, confidence = self.mask, self.confidence
        if not 1 <= len(self.labels) <= MAX_LABELS or int(mask.max(initial=0)) > len(self.labels):
            raise DataError(
                f"expected a mask with 1 to {MAX_LABELS} labels and values up to their number, got values up to "
                f"{int(mask.max(initial=0))} for {', '.join(self.labels) or 'no label'}; the model or the line is "
                "unsound"
            )
        if confidence is not None and confidence.shape != mask.shape:
            raise DataError(
                f"expected a confidence of the mask's size {mask.shape}, got {confidence.shape}; the model or the line "
                "is unsound"
            )

    @classmethod
    def of(
        cls,
        labels: tuple[str, ...],
        mask: Plane,
        confidence: Plane | None = None,
        threshold: float | None = None,
        pieces: Pieces = "all",
        familiar: float | None = None,
    ) -> MaskedImage:
        """Of a mask with all its pieces and a confidence, (h, w) uint8 each."""
        kept = largest_pieces(mask) if pieces == "image" else mask
        sure = None if confidence is None else packed(confidence)
        return cls(labels, packed(kept), sure, threshold, pieces, familiar=familiar)

    @property
    def mask(self) -> Plane:
        """(h, w) uint8, 0 for background and k + 1 for the label k, in the image's own frame; unpacked anew."""
        return unpacked(self.packed)

    @property
    def confidence(self) -> Plane | None:
        """(h, w) uint8, 255 times the probability: see the module; None: not known; unpacked anew."""
        return None if self.packed_confidence is None else unpacked(self.packed_confidence)

    @property
    def pixels(self) -> dict[str, int]:
        """How many pixels each label marks."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.labels) + 1)
        return {label: int(counts[k]) for k, label in enumerate(self.labels, start=1)}

    def as_json(self) -> dict[str, Any]:
        """`mask` and `confidence` as PNG in base64, `labels`, `threshold`, `pixels`, and `familiar`.

        `pixels` says how many each label marks. `pieces` is there where not all are kept.
        """
        about = {
            "labels": list(self.labels),
            "pixels": self.pixels,
            "threshold": self.threshold,
            "familiar": self.familiar,
            "mask": _text(self.packed),
            "confidence": None if self.packed_confidence is None else _text(self.packed_confidence),
        }
        return about if self.pieces == "all" else about | {"pieces": self.pieces}

    def cells(self) -> dict[str, str | float]:
        """How many pixels each label marks, their share of the image, and `familiar`."""
        size = max(self.mask.size, 1)
        cells: dict[str, str | float] = {f"pixels {label}": n for label, n in self.pixels.items()}
        shares = {f"share {label}": round(n / size, 6) for label, n in self.pixels.items()}
        return cells | shares | self.familiar_cell

    def findings(self, labels: tuple[str, ...]) -> Findings:
        """The mask, and the share of the image that each label marks."""
        size = max(self.mask.size, 1)
        shares = {label: Measure("Share of the image", count / size) for label, count in self.pixels.items()}
        found = tuple(Finding(label, (share,)) for label, share in shares.items())
        return Findings(found, self.threshold, self.mask[np.newaxis])

    def draw(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image with the outline of each label over it, and how much of it each label marks below it."""
        from leanmed.tasks.drawing import on_grey, outlined, with_caption

        mask = self.mask
        share = ", ".join(f"{label} {n / max(mask.size, 1):.1%}" for label, n in self.pixels.items())
        return with_caption(outlined(on_grey(pixels), mask), f"of the image: {share}")

    def file(self) -> tuple[str, bytes]:
        """The mask as a file of its own: the end of its name, and its bytes."""
        return ".png", self.packed

    def placed(self, points: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> MaskedImage:
        """The same mask in another frame, whose axes are those of this one swapped, reversed or scaled."""
        mask, confidence = self.mask, self.confidence
        places = places_of(mask.shape, points)
        moved = None if confidence is None else confidence[places]
        return MaskedImage.of(self.labels, mask[places], moved, self.threshold, self.pieces, self.familiar)


def least_level(threshold: float) -> int:
    """The least confidence, of 0 to 255, that reaches a threshold."""
    return math.ceil(LEVELS * threshold - 1e-6)


def decided(
    confidence: Plane, labels: tuple[str, ...], threshold: float, pieces: Pieces, familiar: float | None = None
) -> MaskedImage:
    """The mask of one label: where its confidence reaches a threshold, of the pieces that are kept."""
    mask = (confidence >= least_level(threshold)).astype(np.uint8)
    return MaskedImage.of(labels, mask, confidence, threshold, pieces, familiar)


def check(labels: tuple[str, ...], threshold: float | None) -> None:
    """A threshold with one label, and none with several."""
    if not 1 <= len(labels) <= MAX_LABELS:
        raise ValueError(f"expected 1 to {MAX_LABELS} labels of masks, got {len(labels)}")
    if (threshold is None) != (len(labels) > 1):
        raise ValueError(
            f"expected a threshold for one label and none for several, got {threshold} for {', '.join(labels)}"
        )


def fits(shapes: Mapping[str, Sequence[Any]], labels: tuple[str, ...]) -> bool:
    """A mask (h, w) and a confidence (h, w)."""
    return list(shapes) == ["mask", "confidence"] and [len(shape) for shape in shapes.values()] == [2, 2]


def decide(outputs: Sequence[NDArray[Any]], manifest: Manifest) -> MaskedImage:
    """Mask and confidence, both (h, w) uint8; of one label the threshold decides anew."""
    mask, confidence = outputs
    if any(part.ndim != 2 or part.dtype != np.uint8 for part in outputs) or mask.max(initial=0) > len(manifest.labels):
        raise DataError(
            f"expected a mask and a confidence of uint8 with values up to {len(manifest.labels)} in the mask, got "
            f"{mask.dtype} and {confidence.dtype} with values up to {mask.max(initial=0)}; the model is unsound"
        )
    if manifest.threshold is None:
        return MaskedImage.of(manifest.labels, mask, confidence, pieces=manifest.pieces)
    return decided(confidence, manifest.labels, manifest.threshold, manifest.pieces)


def log_odds(confidence: NDArray[Any]) -> NDArray[np.float64]:
    """Confidences of 0 to 255 to finite logits, each as of the middle of what was rounded to it."""
    inner = (np.asarray(confidence, np.float64) + 0.25) / (LEVELS + 0.5)
    odds: NDArray[np.float64] = np.log(inner) - np.log1p(-inner)
    return odds


def recalibrated(answer: MaskedImage, temperature: float, threshold: float | None) -> MaskedImage:
    """An answer made at a temperature of 1 as it is at another one, decided by a threshold."""
    confidence = answer.confidence
    if confidence is None or threshold is None:
        return answer
    table = np.arange(LEVELS + 1)
    if temperature != 1.0:
        table = np.round(LEVELS / (1 + np.exp(-log_odds(table) / temperature)))
    return decided(table.astype(np.uint8)[confidence], answer.labels, threshold, answer.pieces, answer.familiar)


def is_answer(line: Mapping[str, Any]) -> bool:
    """Whether a line holds a mask, and nothing that was pointed at."""
    return "mask" in line and "pointed" not in line


def answer_of(line: Mapping[str, Any]) -> MaskedImage:
    """Read a line with `mask`, a PNG in base64 whose values are 0 and those of `labels` from 1 on."""
    try:
        labels = tuple(map(str, line.get("labels") or ("object",)))
        confidence, threshold = line.get("confidence"), line.get("threshold")
        return MaskedImage(
            labels,
            base64.b64decode(line["mask"], validate=True),
            None if confidence is None else base64.b64decode(confidence, validate=True),
            float(EVEN if threshold is None else threshold) if len(labels) == 1 else None,
            _pieces_of(line.get("pieces", "all")),
            familiar=familiar_of(line),
        )
    except (KeyError, TypeError, ValueError, OSError, binascii.Error) as error:
        raise DataError(
            "expected `mask`, a PNG of one channel in base64 whose values are 0 and those of `labels` from 1 on, got "
            f"{type(error).__name__}: {error}; correct the line"
        ) from error


def answer_of_row(row: Mapping[str, str], labels: tuple[str, ...], threshold: float | None) -> MaskedImage:
    """Runs of format 1 had no masks."""
    raise DataError("expected a run of format 2 or newer for masks, got an older one; train again")


def labels_of(answers: Sequence[MaskedImage]) -> tuple[str, ...]:
    """Those of the answer that has most."""
    return max((answer.labels for answer in answers), key=len)


def apart(one: Sequence[NDArray[Any]], other: Sequence[NDArray[Any]]) -> float:
    """The mean difference in probability over all pixels, beyond the one level of 255 that rounding may make.

    It is the mean, since networks that put values back where a maximum was found (ENet) differ by more in single pixels
    where two values are nearly the same. Where two outputs name different labels, their probabilities differ by what
    both exceed one by together, at least.
    """
    (mask, first), (another, second) = (tuple(part.astype(np.int64) for part in own) for own in (one, other))
    if mask.shape != another.shape:
        return 1.0
    levels = np.abs(first - second) - 1
    if max(mask.max(initial=0), another.max(initial=0)) > 1:
        levels = np.where(mask == another, levels, first + second - LEVELS - 1)
    return float(np.maximum(levels, 0).mean()) / LEVELS if levels.size else 0.0


def search(
    scan: Any, run: Callable[[NDArray[Any]], Sequence[NDArray[Any]]], manifest: Manifest, count: int | None
) -> MaskedScan:
    """The mask of a whole volume of MR, slice by slice; see `mask_scan`."""
    return mask_scan(scan, lambda pixels: decide(run(pixels), manifest).mask, manifest)


def packed(plane: Plane) -> bytes:
    """(h, w) uint8 as a PNG."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(plane).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def unpacked(content: bytes) -> Plane:
    """A PNG of one channel as (h, w) uint8.

    Raises:
        DataError: it is none, or has more than `MAX_PIXELS`.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"expected a mask of at most {MAX_PIXELS:,} pixels, got {image.width} x {image.height}; take a "
                    "smaller one"
                )
            if image.mode not in ("L", "P", "1"):
                raise DataError(f"expected a mask as a PNG of one channel of 8 bits, got mode {image.mode}; convert it")
            return np.array(image, dtype=np.uint8)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"expected a mask as a PNG, got something else ({error}); correct the line") from error


def _pieces_of(name: Any) -> Pieces:
    if name not in get_args(Pieces):
        raise ValueError(f"`pieces` is one of {', '.join(get_args(Pieces))}, got {name!r}")
    return cast(Pieces, name)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()

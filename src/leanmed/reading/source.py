"""What every reader shares: whether a file is DICOM, silent decoders, and the border at which errors become ours."""

from __future__ import annotations

import ctypes
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from leanmed.errors import InputError, MissingExtraError, UnreadableInput

HEAD = 2**16  # bytes at the start of a DICOM file that say what it is
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")

_NOISY = r"(PIL|pydicom|nibabel)\."
_UIDS = {(0x0002, 0x0002), (0x0002, 0x0010), (0x0008, 0x0016)}  # SOP class, transfer syntax, SOP class
_DICOM_ROOT = b"1.2.840.10008."  # of every UID that the standard gives
_LONG_VRS = frozenset({b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV"})
_VRS = _LONG_VRS | {
    *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"),
    *(b"ST", b"TM", b"UI", b"UL", b"US"),
}


def is_dicom(data: bytes, name: str = "") -> bool:
    """Whether a file is DICOM: by its `DICM` mark, by its first elements where it has no mark, or by its suffix.

    Args:
        data: the file, or the first `HEAD` bytes of it.
        name: the file's name, if it has one.
    """
    return looks_like_dicom(data) or name.lower().endswith(DICOM_SUFFIXES)


def looks_like_dicom(data: bytes) -> bool:
    """Whether bytes are DICOM by their content: the `DICM` mark, or first elements with one of the standard's UIDs.

    Old archives write files without the preamble, or without the file meta group as well. Any two bytes could be the
    number of a group, so a SOP class or a transfer syntax is asked for, in elements that stand in their order.
    """
    return data[128:132] == b"DICM" or any(value.startswith(_DICOM_ROOT) for value in _first_uids(data[:HEAD]))


def dicom_head(source: Path | bytes) -> bytes:
    """The first `HEAD` bytes of a DICOM file, or of the bytes of one; of any other file, nothing."""
    if isinstance(source, bytes):
        return source[:HEAD] if is_dicom(source) else b""
    try:
        if source.is_file():
            with source.open("rb") as file:
                head = file.read(HEAD)
            return head if is_dicom(head, source.name) else b""
    except OSError:
        pass  # whoever opens it is told why
    return b""


def name_of(source: Path | bytes) -> str:
    """What messages call a source."""
    return "image data" if isinstance(source, bytes) else repr(str(source))


@contextmanager
def border(name: str, kind: str = "image") -> Iterator[None]:
    """Put the name before each message, and turn whatever a decoder raises into `UnreadableInput`.

    Args:
        name: of the source.
        kind: what was expected of it, an image, a mask or a scan.
    """
    silence_decoders()
    try:
        yield
    except InputError as error:
        raise type(error)(f"{name}: {error}") from error.__cause__
    except MissingExtraError:
        raise
    except Exception as error:
        detail = " ".join(f"{type(error).__name__}: {error}".split())
        raise UnreadableInput(
            f"{name}: expected a readable {kind}, but reading failed ({detail}); copy or export it again"
        ) from error


def silence_decoders() -> None:
    """Keep Pillow, pydicom, nibabel and libtiff from telling the terminal of odd files that they read all the same.

    `warnings.catch_warnings` swaps the filters of the whole process, so it is not safe in threads. Instead
    one narrow filter goes before all others and stays; if a host puts its own there, the next image moves it
    back to the front.
    """
    if not any(module == re.compile(_NOISY) for _, _, _, module, _ in warnings.filters[:1]):
        warnings.filterwarnings("ignore", category=Warning, module=_NOISY)
    _silence_libtiff()


@cache
def _silence_libtiff() -> None:
    """libtiff writes to the process's standard error, past Python; it is told once to write nothing."""
    try:
        from PIL import _imaging

        libtiff = ctypes.CDLL(_imaging.__file__)  # its symbols are found among those that Pillow is linked with
        for handler in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            getattr(libtiff, handler)(None)
    except (ImportError, AttributeError, OSError):
        pass  # a Pillow that hides libtiff's symbols, as on Windows: a damaged TIFF is refused there with a line more


def _first_uids(data: bytes) -> Iterator[bytes]:
    """Values of the UIDs in the first groups of a file without preamble; they end where it cannot be DICOM."""
    position, before = 0, (0, 0)
    while position + 8 <= len(data):
        group, element = struct.unpack_from("<HH", data, position)
        if group not in (2, 8) or (group, element) <= before != (0, 0):
            return
        header, length = _element(data, position)
        if (group, element) in _UIDS:
            yield data[position + header : position + header + length]
        before, position = (group, element), position + header + length


def _element(data: bytes, position: int) -> tuple[int, int]:
    """Bytes in an element's header and in its value, little endian, with its VR written out or not."""
    vr = data[position + 4 : position + 6]
    if vr in _LONG_VRS:
        return 12, int.from_bytes(data[position + 8 : position + 12], "little")
    if vr in _VRS:
        return 8, int.from_bytes(data[position + 6 : position + 8], "little")
    return 8, int.from_bytes(data[position + 4 : position + 8], "little")

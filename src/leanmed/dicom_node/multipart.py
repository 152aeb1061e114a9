"""`multipart/related` of DICOM objects, as STOW-RS and WADO-RS send them (PS3.18 section 8.6)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser

from leanmed.errors import UnreadableInput

DICOM = "application/dicom"
_BOUNDARY = re.compile(r"""boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))""", re.IGNORECASE)


def boundary_of(content_type: str) -> bytes:
    """The boundary that a header names.

    Raises:
        UnreadableInput: no multipart/related of DICOM objects.
    """
    kind, _, parameters = content_type.partition(";")
    found = _BOUNDARY.search(parameters)
    if kind.strip().lower() != "multipart/related" or not found or DICOM not in parameters.lower():
        raise UnreadableInput(
            f'expected multipart/related; type="{DICOM}" with a boundary, got something else; send DICOM objects'
        )
    return (found[1] or found[2]).encode("latin-1")


def parts(chunks: Iterable[bytes], boundary: bytes, max_bytes: int) -> Iterator[bytes]:
    """The bodies of the parts of a message, each as soon as it is whole.

    Args:
        chunks: of the message.
        boundary: see `boundary_of`.
        max_bytes: of one part.

    Raises:
        UnreadableInput: no such message, one that is cut off, or a part that is too large.
    """
    whole: list[bytes] = []
    part = bytearray()
    has_ended = False

    def on_data(data: bytes, start: int, end: int) -> None:
        part.extend(memoryview(data)[start:end])
        if len(part) > max_bytes:
            raise UnreadableInput(f"expected objects of at most {max_bytes:,} bytes, got a larger one; send it alone")

    def on_end() -> None:
        whole.append(bytes(part))
        part.clear()

    def on_message_end() -> None:
        nonlocal has_ended
        has_ended = True

    parser = MultipartParser(boundary, {"on_part_data": on_data, "on_part_end": on_end, "on_end": on_message_end})
    for chunk in chunks:
        try:
            parser.write(chunk)
        except MultipartParseError as error:
            raise UnreadableInput("expected a message of several parts, got a damaged one; send it again") from error
        yield from whole
        whole.clear()
    if not has_ended:
        raise UnreadableInput("expected a whole message, got one that is cut off; send it again")


def message(objects: Iterable[bytes]) -> tuple[str, bytes]:
    """Objects as one message: its content type and its bytes."""
    boundary = secrets.token_hex(16)
    head = f"--{boundary}\r\nContent-Type: {DICOM}\r\n\r\n".encode()
    body = b"".join(head + content + b"\r\n" for content in objects) + f"--{boundary}--\r\n".encode()
    return f'multipart/related; type="{DICOM}"; boundary={boundary}', body

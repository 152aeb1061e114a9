"""The node's log: lines of JSON that name no patient, and the identifiers that it uses in place of those of DICOM."""

from __future__ import annotations

import hashlib
import re
import threading
import uuid
from typing import Any

from leanmed.errors import LeanmedError
from leanmed.serving.guard import log_line

UID = re.compile(r"[0-9.]{1,64}")
_UIDS = re.compile(r"\b\d+(?:\.\d+){4,}\b")
_lock = threading.Lock()


def tell(event: str, **about: Any) -> None:
    """A line of the log; several threads write to it."""
    with _lock:
        log_line({"event": event, **about})


def short_hash(*parts: str) -> str:
    """Names a series or an object without telling its UID: 32 hexadecimal digits."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def is_uid(value: object) -> bool:
    """Whether a value is a UID as DICOM writes them: digits and dots, 64 at most; anything else may be an attack."""
    return UID.fullmatch(str(value)) is not None


def made_uid(*parts: str) -> str:
    """The UID that always belongs to the same parts: a UUID of version 5 as PS3.5 B.2 writes it."""
    name = "\n".join(("leanmed", *parts))
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, name).int}"


def reason_of(error: Exception) -> str:
    """Why something failed, in words that hold nothing of an image: of others' errors, their kind alone."""
    first: BaseException = error
    while isinstance(first, LeanmedError) and first.__cause__ is not None:
        first = first.__cause__
    if isinstance(first, LeanmedError):
        return _UIDS.sub("UID", str(error))
    return type(first).__name__ if first is error else f"{type(error).__name__} of {type(first).__name__}"

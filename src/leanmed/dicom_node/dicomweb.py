"""A DICOMweb server seen from the node: STOW-RS for answers, QIDO-RS and WADO-RS to fetch what is to be answered."""

from __future__ import annotations

import json
import ssl
import urllib.request
from collections.abc import Iterable, Iterator
from http.client import HTTPException
from typing import Any, cast
from urllib.error import HTTPError

from pydicom import Dataset

from leanmed.dicom_node.config import Rule, Server
from leanmed.dicom_node.inbox import Store
from leanmed.dicom_node.journal import is_uid
from leanmed.dicom_node.multipart import DICOM, boundary_of, message, parts
from leanmed.errors import DataError, InputError

SECONDS = 60.0  # without a byte
CHUNK = 2**20
MOST_JSON = 2**26  # bytes of the list of a study's series
FAILED = "00081198"  # Failed SOP Sequence
MODALITY, DESCRIPTION, SERIES = "00080060", "0008103E", "0020000E"


class NotReached(Exception):
    """The other side is not there, or did not take or give what it should; it is tried again later."""


def stow(server: Server, objects: Iterable[bytes]) -> None:
    """Send objects.

    Raises:
        NotReached: not all of them were stored.
    """
    kind, body = message(objects)
    headers = {"Content-Type": kind, "Accept": "application/dicom+json"}
    told = _json(server, "/studies", headers, body)
    if not isinstance(told, dict):
        raise NotReached("the server's answer is no DICOM in JSON")
    if failed := told.get(FAILED, {}).get("Value"):
        raise NotReached(f"the server did not store {len(failed)} objects")


def fetch(server: Server, study: str, rules: Iterable[Rule], store: Store) -> int:
    """Bring the series of a study that some rule may answer into the store; how many objects came.

    Raises:
        NotReached: the server does not answer, or gives something else.
        OSError: the disk is full, or fails.
    """
    rules, count = list(rules), 0
    for series in _series_of(server, study):
        if any(_may_fit(rule, series) for rule in rules):
            for content in _objects(server, f"/studies/{study}/series/{series[SERIES]}", store.limits.max_bytes):
                try:
                    store.put(content)
                except InputError as error:
                    raise NotReached("the server gave something else than DICOM objects") from error
                count += 1
    return count


def _may_fit(rule: Rule, series: dict[str, str]) -> bool:
    """Whether a rule may answer a series; the body part is looked at when the images are here."""
    known = Dataset()
    known.Modality, known.SeriesDescription = series[MODALITY], series[DESCRIPTION]
    return rule.model_copy(update={"body_part": ""}).fits(known)


def _series_of(server: Server, study: str) -> list[dict[str, str]]:
    """Of each series of a study its UID, modality and description."""
    query = f"/studies/{study}/series?includefield={DESCRIPTION}"
    rows = _json(server, query, {"Accept": "application/dicom+json"}) or []
    try:
        found = [{tag: _first(row, tag) for tag in (MODALITY, DESCRIPTION, SERIES)} for row in rows]
    except (AttributeError, TypeError, IndexError) as error:
        raise NotReached("the server's answer is no DICOM in JSON") from error
    if not all(is_uid(row[SERIES]) for row in found):
        raise NotReached("the server named a series by something that is no UID")
    return found


def _first(row: Any, tag: str) -> str:
    values = row.get(tag, {}).get("Value") or [""]
    return str(values[0])


def _objects(server: Server, path: str, max_bytes: int) -> Iterator[bytes]:
    accept = f'multipart/related; type="{DICOM}"; transfer-syntax=*'
    with _asked(server, path, {"Accept": accept}) as answer:
        try:
            boundary = boundary_of(answer.headers.get("Content-Type", ""))
            yield from parts(iter(lambda: answer.read(CHUNK), b""), boundary, max_bytes)
        except (InputError, HTTPException, OSError) as error:
            raise NotReached("the server's answer was cut off, or holds no DICOM objects") from error


def _json(server: Server, path: str, headers: dict[str, str], body: bytes | None = None) -> Any:
    """What a server answers in JSON; of no answer, an empty object."""
    with _asked(server, path, headers, body) as answer:
        try:
            return json.loads(answer.read(MOST_JSON) or b"{}")
        except (ValueError, RecursionError, HTTPException, OSError) as error:
            raise NotReached("the server's answer is no DICOM in JSON") from error


def _asked(server: Server, path: str, headers: dict[str, str], body: bytes | None = None) -> Any:
    """The answer of a server to one request; `url` is of http or https, as the configuration checks."""
    if server.authorization_file:
        headers = headers | {"Authorization": _authorization(server)}
    request = urllib.request.Request(server.url.rstrip("/") + path, body, headers)  # noqa: S310
    context = None
    if server.url.startswith("https:"):
        context = ssl.create_default_context(cafile=server.authorities and str(server.authorities))
    try:
        return urllib.request.urlopen(request, timeout=SECONDS, context=context)  # noqa: S310
    except HTTPError as error:
        raise NotReached(f"the server answered {error.code}") from error
    except (OSError, HTTPException) as error:
        raise NotReached("the server does not answer") from error


def _authorization(server: Server) -> str:
    file = cast(Any, server.authorization_file)
    try:
        value = str(file.read_text(encoding="utf-8")).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"expected authorization_file {file} to hold a line of text, got none; mend that") from error
    return value

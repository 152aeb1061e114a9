"""A DICOMweb server seen from the node: STOW-RS for answers, QIDO-RS and WADO-RS to fetch what is to be answered."""

from __future__ import annotations

import io
import json
import ssl
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from http.client import HTTPException
from typing import Any, cast
from urllib.error import HTTPError

from pydicom import Dataset, dcmread

from leanmed.dicom_node.config import Rule, Server
from leanmed.dicom_node.inbox import Store, series_id
from leanmed.dicom_node.journal import is_uid
from leanmed.dicom_node.multipart import DICOM, boundary_of, message, parts
from leanmed.errors import DataError, InputError

SECONDS = 60.0  # without a byte
CHUNK = 2**20
MOST_JSON = 2**26  # bytes of the list of a study's series
FAILED, REFERENCED, INSTANCE = (
    "00081198",
    "00081199",
    "00081155",
)  # Failed and Referenced SOP Sequence; the latter's UID
MODALITY, DESCRIPTION, SERIES = "00080060", "0008103E", "0020000E"


class NotReached(Exception):
    """The other side is not there, or did not take or give what it should; it is tried again later."""


def stow(server: Server, objects: Sequence[bytes]) -> None:
    """Send objects.

    Raises:
        NotReached: the server does not say of each of them that it was stored.
    """
    kind, body = message(objects)
    headers = {"Content-Type": kind, "Accept": "application/dicom+json"}
    told = _json(server, "/studies", headers, body)
    if not isinstance(told, dict):
        raise NotReached("the server's answer is no DICOM in JSON")
    if failed := told.get(FAILED, {}).get("Value"):
        raise NotReached(f"the server did not store {len(failed)} objects")
    if missing := {_instance_of(content) for content in objects} - _stored(told):
        raise NotReached(f"the server does not say that it stored {len(missing)} objects")


def _instance_of(content: bytes) -> str:
    return str(dcmread(io.BytesIO(content), specific_tags=["SOPInstanceUID"]).SOPInstanceUID)


def _stored(told: dict[str, Any]) -> set[str]:
    """The instances that the answer to STOW-RS names as stored."""
    try:
        return {str(item[INSTANCE]["Value"][0]) for item in told.get(REFERENCED, {}).get("Value") or []}
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        raise NotReached("the server's answer is no DICOM in JSON") from error


def fetch(server: Server, study: str, rules: Iterable[Rule], store: Store) -> int:
    """Bring the series of a study that some rule may answer into the store; how many objects came.

    The store is told before of which series they are, so that none is answered until all have come.

    Raises:
        NotReached: the server does not answer, or gives something else.
        OSError: the disk is full, or fails.
    """
    rules, count = list(rules), 0
    found = [row[SERIES] for row in _series_of(server, study) if any(_may_fit(rule, row) for rule in rules)]
    store.want(study, [series_id(study, uid) for uid in found])
    for uid in found:
        for content in _objects(server, f"/studies/{study}/series/{uid}", store.limits.max_bytes):
            try:
                store.put(content, brings=partial(_check_series, series_id(study, uid)))
            except InputError as error:
                raise NotReached("the server gave something else than DICOM objects") from error
            count += 1
    return count


def _check_series(asked: str, given: str) -> None:
    if given != asked:
        raise NotReached("the server gave an object of another study or series than it was asked for")


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
    opener = urllib.request.build_opener(_NoRedirect, urllib.request.HTTPSHandler(context=context))
    try:
        return opener.open(request, timeout=SECONDS)
    except HTTPError as error:
        raise NotReached(f"the server answered {error.code}") from error
    except (OSError, HTTPException) as error:
        raise NotReached("the server does not answer") from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: `urllib` would turn a POST into a GET, and show the authorization to another host."""

    def redirect_request(self, *about: Any) -> None:
        """Follow none."""


def _authorization(server: Server) -> str:
    file = cast(Any, server.authorization_file)
    try:
        value = str(file.read_text(encoding="utf-8")).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"expected authorization_file {file} to hold a line of text, got none; mend that") from error
    return value

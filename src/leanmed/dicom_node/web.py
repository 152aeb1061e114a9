"""DICOMweb towards the node: STOW-RS takes images in, and a study can be asked for that the node then fetches."""

from __future__ import annotations

from collections.abc import Callable

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from leanmed.dicom_node.inbox import Received, Store
from leanmed.dicom_node.journal import is_uid
from leanmed.dicom_node.multipart import boundary_of, parts
from leanmed.errors import InputError
from leanmed.serving.guard import Guard, Rules

STUDIES, HEALTH, STATUS = "/studies", "/healthz", "/status"
FULL = 507  # insufficient storage
REFERENCED, FAILED = "00081199", "00081198"
NOT_UNDERSTOOD = 0xC000


class Web:
    """The routes over a store.

    Args:
        store: where images go.
        may_fetch: whether there is a server to fetch studies from.
        status: counts the series in each state.
    """

    def __init__(self, store: Store, may_fetch: bool, status: Callable[[], dict[str, int]]) -> None:
        self.store, self.may_fetch, self.status = store, may_fetch, status

    async def stow(self, request: Request) -> Response:
        """Keep the objects of a request; what it names as referenced is on the disk."""
        body = await request.body()
        try:
            boundary = boundary_of(request.headers.get("content-type", ""))
            kept, failed = await run_in_threadpool(self._keep, body, boundary)
        except InputError as error:
            return JSONResponse({"error": str(error)}, 400)
        except OSError as error:
            return JSONResponse({"error": f"the disk of the node fails: {error.strerror}; send it again later"}, FULL)
        if not kept and not failed:
            return JSONResponse({"error": "expected DICOM objects, got none; send some"}, 400)
        return JSONResponse(_answer(kept, failed), 409 if not kept else 202 if failed else 200, media_type=JSON)

    def _keep(self, body: bytes, boundary: bytes) -> tuple[list[Received], int]:
        """What was kept of a message, and how many of its objects were not."""
        kept: list[Received] = []
        failed = 0
        for content in parts([body], boundary, self.store.limits.max_bytes):
            try:
                kept.append(self.store.put(content))
            except InputError:
                failed += 1
        return kept, failed

    async def answer(self, request: Request) -> Response:
        """Fetch a study, and answer it."""
        study = request.path_params["study"]
        if not self.may_fetch:
            reason = "expected `source` in the node's configuration, to fetch studies from, got none; send the images"
            return JSONResponse({"error": reason}, 501)
        if not is_uid(study):
            return JSONResponse({"error": "expected the UID of a study, got something else; correct it"}, 400)
        try:
            self.store.want(study)
        except OSError as error:
            return JSONResponse({"error": f"the disk of the node fails: {error.strerror}; ask again later"}, FULL)
        return JSONResponse({"state": "the study will be fetched and answered"}, 202)

    async def health(self, request: Request) -> Response:
        """Whether the node listens."""
        return JSONResponse({"status": "ok"})

    async def states(self, request: Request) -> Response:
        """How many series are in which state."""
        return JSONResponse(self.status())

    def app(self, rules: Rules, log: Callable[[dict[str, object]], None]) -> Guard:
        """All routes behind the guard, as ASGI."""
        routes = [
            Route(STUDIES, self.stow, methods=["POST"]),
            Route(f"{STUDIES}/{{study}}/answer", self.answer, methods=["POST"]),
            Route(HEALTH, self.health),
            Route(STATUS, self.states),
        ]
        return Guard(Starlette(routes=routes), rules, [STUDIES, HEALTH, STATUS], STUDIES, log=log)


JSON = "application/dicom+json"


def _answer(kept: list[Received], failed: int) -> dict[str, object]:
    """The body of a STOW-RS response (PS3.18 10.5.3)."""
    answer: dict[str, object] = {}
    if kept:
        items = [
            {
                "00081150": {"vr": "UI", "Value": [one.sop_class]},
                "00081155": {"vr": "UI", "Value": [one.sop_instance]},
            }
            for one in kept
        ]
        answer[REFERENCED] = {"vr": "SQ", "Value": items}
    if failed:
        reason = {"00081197": {"vr": "US", "Value": [NOT_UNDERSTOOD]}}
        answer[FAILED] = {"vr": "SQ", "Value": [reason] * failed}
    return answer

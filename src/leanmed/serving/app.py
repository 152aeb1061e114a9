"""The server's routes: the page of `leanmed web`, a form without scripts, answers, health, metrics, and a description.

The description is OpenAPI 3.1.
"""

from __future__ import annotations

import asyncio
import base64
import html
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from string import Template
from typing import Any

import anyio.to_thread
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.datastructures import QueryParams, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from leanmed import __version__
from leanmed.errors import LeanmedError
from leanmed.manifest import Manifest
from leanmed.reading.raster import Limits
from leanmed.runtime.artifact import Artifact
from leanmed.serving.guard import AGAIN, Guard, Rules, log_line
from leanmed.serving.workers import Done, Job, Worker, WorkerDied
from leanmed.web.site import COMMON, about_site, linked_index, page_files
from leanmed.web.site import PAGE as WEB_PAGE

PREDICT, HEALTH, METRICS, OPENAPI = "/v1/predict", "/healthz", "/metrics", "/openapi.json"
FORM = "/form"
MOST_FIELDS = 512  # of a form: two for each point
TENDED = 1.0  # seconds between two looks at the workers
REASONS = {
    404: "expected one of the paths in /openapi.json",
    405: "expected POST for /v1/predict and GET for all other paths",
}
FORMS = {"json": "application/json", "png": "image/png", "mask": "image/png", "page": "text/html"}
logging.getLogger("python_multipart").disabled = True  # its lines would show what a client has sent
PAGE, ANSWER = (Template((Path(__file__).parent / name).read_text("utf-8")) for name in ("page.html", "answer.html"))
SAFE = {
    "content-security-policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'self'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with no-referrer, browsers say of the page's own form that it is from nowhere
    "cache-control": "no-store",  # answers and drawings are of patients
}
POLICY = f"{COMMON}script-src 'self'; style-src 'self'; connect-src 'self'; manifest-src 'self'"
TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".css": "text/css",
    ".png": "image/png",
    ".webmanifest": "application/manifest+json",
}
NOSCRIPT = "<a href='form'>A form that needs no JavaScript</a>"
READ = "image/*,.dcm,.tif,.tiff,.heic"  # what a server reads, browsers may not


class Busy(Exception):
    """No worker was free in time."""


class Pool:
    """Workers, of which each answers one request at a time.

    Args:
        workers: not started yet.
        seconds: that a request may wait for a worker, and that an answer may take.
    """

    def __init__(self, workers: Sequence[Worker], seconds: float) -> None:
        self.workers, self.seconds = workers, seconds
        self._idle: asyncio.Queue[Worker] = asyncio.Queue()

    def start(self) -> None:
        """Start all, at the same time.

        Raises:
            ArtifactError, WorkerDied: one cannot open the artifacts; none runs then.
        """
        try:
            with ThreadPoolExecutor(len(self.workers)) as threads:
                list(threads.map(Worker.start, self.workers))
        except BaseException:
            self.stop()
            raise

    async def tend(self) -> None:
        """Let all that run take jobs, and start anew those that die between two."""
        for worker in self.workers:
            self._idle.put_nowait(worker)
        while True:
            await anyio.sleep(TENDED)
            for _ in range(self._idle.qsize()):
                worker = self._idle.get_nowait()
                try:
                    if not worker.is_alive:
                        with suppress(WorkerDied, LeanmedError):
                            await anyio.to_thread.run_sync(worker.start)
                finally:
                    self._idle.put_nowait(worker)

    async def ask(self, job: Job) -> Done:
        """The answer of the next worker that is free.

        Raises:
            Busy: none was.
            WorkerDied: its process ended, or took too long; another one takes its place.
        """
        try:
            worker = await asyncio.wait_for(self._idle.get(), self.seconds)
        except TimeoutError as error:
            raise Busy from error
        try:
            return await anyio.to_thread.run_sync(worker.ask, job, self.seconds)
        finally:
            self._idle.put_nowait(worker)

    def stop(self) -> None:
        """End all processes for good."""
        for worker in self.workers:
            worker.close()


class Metrics:
    """What Prometheus may ask for; nothing of it tells of a patient."""

    def __init__(self, pool: Pool) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "leanmed_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "leanmed_request_seconds", "From the first byte to the answer.", ["route"], registry=self.registry
        )
        gauge = Gauge(
            "leanmed_worker_starts", "Worker processes started, again after each that died.", registry=self.registry
        )
        gauge.set_function(lambda: sum(worker.starts for worker in pool.workers))

    def saw(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        known = method if method in ("GET", "POST", "HEAD") else "other"
        self.requests.labels(known, route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self.registry)


class Server:
    """The routes over some artifacts.

    Args:
        artifacts: name -> the artifact, whose graphs are not looked at.
        pool: its workers have the same artifacts.
        limits: of images.
        refuse_unfamiliar: as of the workers.
    """

    def __init__(
        self, artifacts: Mapping[str, Artifact], pool: Pool, limits: Limits, refuse_unfamiliar: bool = False
    ) -> None:
        self.artifacts = {name: artifact.manifest for name, artifact in artifacts.items()}
        self.pool, self.max_bytes = pool, limits.max_bytes
        self.metrics = Metrics(pool)
        models = {name: [(found.sha256, found.manifest, found.card)] for name, found in artifacts.items()}
        about = about_site(models, limits=limits, refuse_unfamiliar=refuse_unfamiliar)
        self.files = {
            "/": linked_index(policy=POLICY, noscript=NOSCRIPT, accept=READ).encode(),
            "/site.json": json.dumps(about, ensure_ascii=False).encode(),
            # in place of a service worker that a page of `leanmed web` has left at this address
            "/offline.js": (WEB_PAGE / "retired.js").read_bytes(),
            **{f"/{place}": content for place, content in page_files(artifacts).items()},
        }

    async def file(self, request: Request) -> Response:
        """A file of the page, which is that of `leanmed web`, but asks this server."""
        place = request.url.path
        kind = TYPES[Path(place).suffix or ".html"]
        return Response(
            self.files[place],
            media_type=kind,
            headers=SAFE | {"content-security-policy": f"{POLICY}; frame-ancestors 'none'"},
        )

    async def form(self, request: Request) -> Response:
        """A page with a form, which needs no script."""
        options = "".join(
            f"<option value='{html.escape(name)}'>{html.escape(name)}: {html.escape(', '.join(found.labels))}</option>"
            for name, found in self.artifacts.items()
        )
        cards = "".join(self._card(name, found) for name, found in self.artifacts.items())
        content = PAGE.substitute(options=options, cards=cards, version=html.escape(__version__))
        return HTMLResponse(content, headers=SAFE)

    def _card(self, name: str, found: Manifest) -> str:
        figure = found.figures.get(found.main_score, {})
        value, low, high = (figure.get(key) for key in ("value", "low", "high"))
        score = f"{found.main_score} {value:.3f}" if value is not None else ""
        score += f" (95 % interval {low:.3f} to {high:.3f})" if score and low is not None and high is not None else ""
        rows = {
            "leaks": found.leak or "",
            "labels": ", ".join(found.labels),
            "decision threshold": "" if found.threshold is None else f"{found.threshold:.3f}, {found.threshold_origin}",
            "how good it is, on images that it had not seen": score,
        }
        told = "".join(f"<dt>{k}</dt><dd>{html.escape(v)}</dd>" for k, v in rows.items() if v)
        return f"<h2>{html.escape(name)}</h2><dl>{told}</dl>"

    async def predict(self, request: Request) -> Response:
        """An image in, an answer out."""
        asked, content, wrong = await self._asked(request)
        form = asked.get("form", "json")
        if wrong:
            return _told({"error": wrong}, 400, form)
        name = asked.get("artifact", next(iter(self.artifacts)))
        for what, given, known in (("artifact", name, self.artifacts), ("form", form, FORMS)):
            if given not in known:
                wrong = f"expected {what} among {', '.join(known)}, got {given!r}; name one of these"
                return _told({"error": wrong}, 404, form)
        job = Job(name, content, asked.getlist("point"), asked.getlist("label"), asked.get("box") or None, form)
        try:
            done = await self.pool.ask(job)
        except Busy:
            return _told({"error": "no process was free in time; come again"}, 503, form, headers=AGAIN)
        except WorkerDied:
            reason = "the process that worked on this image ended, or took too long; nothing else was lost"
            return _told({"error": reason}, 500, form)
        if done.fault:
            log_line({"fault": done.fault, "route": PREDICT})
        if done.status != 200 or form in ("json", "page"):
            return _told(done.line, done.status, form, done.file)
        return Response(done.file, media_type=FORMS[form], headers=SAFE)

    async def _asked(self, request: Request) -> tuple[QueryParams, bytes, str]:
        """What is asked for, the image's bytes, and what is wrong with it."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "multipart/form-data":
            body = await request.body()
            return request.query_params, body, "" if body else "expected an image as the body, got none; send its bytes"
        parser = MultiPartParser(request.headers, request.stream(), max_files=1, max_fields=MOST_FIELDS)
        parser.spool_max_size = self.max_bytes  # in memory: no image lies on the disk
        try:
            form = await parser.parse()
        except (MultiPartException, KeyError, ValueError):
            return request.query_params, b"", "expected a form with one file in its field `image`; send it anew"
        image = form.get("image")
        if not isinstance(image, UploadFile):
            return request.query_params, b"", "expected a file in the form's field `image`, got none; send one"
        fields = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
        return QueryParams([*request.query_params.multi_items(), *fields]), await image.read(), ""

    async def health(self, request: Request) -> Response:
        """Whether a worker is alive; those that died are started anew."""
        alive = sum(worker.is_alive for worker in self.pool.workers)
        status, headers = (200, {}) if alive else (503, AGAIN)
        return JSONResponse({"status": "ok" if alive else "starting", "workers": alive}, status, headers=headers)

    async def measured(self, request: Request) -> Response:
        """The metrics."""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def described(self, request: Request) -> Response:
        """The description."""
        return JSONResponse(description(list(self.artifacts)))

    def app(self, rules: Rules) -> Guard:
        """All routes behind the guard, as ASGI."""
        routes = [
            *(Route(place, self.file) for place in self.files),
            Route(FORM, self.form),
            Route(PREDICT, self.predict, methods=["POST"]),
            Route(HEALTH, self.health),
            Route(METRICS, self.measured),
            Route(OPENAPI, self.described),
        ]

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            async with anyio.create_task_group() as group:
                group.start_soon(self.pool.tend)
                try:
                    yield
                finally:
                    group.cancel_scope.cancel()
                    self.pool.stop()

        async def refused(request: Request, error: Exception) -> Response:
            status = error.status_code if isinstance(error, HTTPException) else 500
            return JSONResponse({"error": REASONS.get(status, "the request cannot be answered")}, status)

        inner = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: refused})
        return Guard(inner, rules, [route.path for route in routes], PREDICT, seen=self.metrics.saw)


def _told(
    line: Mapping[str, Any], status: int, form: str, picture: bytes = b"", headers: Mapping[str, str] = {}
) -> Response:
    """A line, or what is wrong, as JSON or as a page for people."""
    if form != "page":
        return JSONResponse(dict(line), status, headers=SAFE | dict(headers))
    title = line.get("error") or ", ".join(filter(None, [line.get("label", ""), _percent(line.get("probability"))]))
    drawn = (
        f"<img alt='the image with the answer on it' src='data:image/png;base64,{base64.b64encode(picture).decode()}'>"
    )
    remark = line.get("remark", "")
    about = {"threshold": line.get("threshold"), "familiar": line.get("familiar"), "artifact": line.get("artifact")}
    content = ANSWER.substitute(
        title=html.escape(title or "Answer"),
        remark=f"<p class='remark' role='alert'>{html.escape(remark)}</p>" if remark else "",
        picture=drawn if picture else "",
        about=html.escape("; ".join(f"{name}: {_short(value)}" for name, value in about.items() if value is not None)),
    )
    return HTMLResponse(content, status, headers=SAFE | dict(headers))


def _percent(probability: float | None) -> str:
    return "" if probability is None else f"probability of the positive label {probability:.3f}"


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)[:12]


def description(artifacts: Sequence[str]) -> dict[str, Any]:
    """The API in OpenAPI 3.1."""
    text: dict[str, Any] = {"schema": {"type": "string"}}
    query = {
        "artifact": {"schema": {"type": "string", "enum": list(artifacts)}, "description": "the first if not given"},
        "form": {
            "schema": {"type": "string", "enum": list(FORMS)},
            "description": "json: the line that `leanmed predict` writes; png: the image with the answer on it; mask: "
            "the mask as an image, of artifacts that give masks; page: a page for people",
        },
        "point": {
            "schema": {"type": "array", "items": {"type": "string"}},
            "description": "X,Y; as of leanmed predict",
        },
        "label": {
            "schema": {"type": "array", "items": {"type": "string"}},
            "description": "1 or 0, one for each point",
        },
        "box": text | {"description": "X1,Y1,X2,Y2"},
    }
    image = {"type": "string", "format": "binary"}
    fields = {"image": image} | {name: about["schema"] for name, about in query.items()}
    body = {
        "multipart/form-data": {"schema": {"type": "object", "required": ["image"], "properties": fields}},
        "application/octet-stream": {"schema": image},
    }
    error = {
        "content": {"application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}}}
    }
    reasons = {
        "400": "the request is malformed",
        "401": "the token is missing",
        "403": "it comes from the page of another server",
        "404": "no such path, artifact or form",
        "408": "the body did not arrive in time",
        "413": "the image or the body is too large",
        "421": "it asks for a name that is not allowed",
        "422": "it cannot be read as an image, or looks unlike those that the model was trained on",
        "500": "the process that worked on it ended",
        "503": "too many requests at a time; Retry-After says when to come again",
    }
    answer = {"application/json": {"schema": {"type": "object"}}, "image/png": {"schema": image}}
    responses = {"200": {"description": "the answer", "content": answer}}
    responses |= {status: {"description": reason, **error} for status, reason in reasons.items()}
    predict = {
        "summary": "Answer for one image",
        "parameters": [{"name": name, "in": "query", **about} for name, about in query.items()],
        "requestBody": {"required": True, "content": body},
        "responses": responses,
    }
    plain = {"responses": {"200": {"description": "it"}}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "leanmed",
            "version": __version__,
            "description": "Research use only. Not a medical device.",
        },
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],
        "paths": {
            PREDICT: {"post": predict},
            HEALTH: {"get": {"summary": "Whether the server can answer", **plain}},
            METRICS: {"get": {"summary": "Counts and times for Prometheus", **plain}},
        },
    }

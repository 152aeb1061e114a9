"""What `leanmed web` writes: a static site, or one file, from the page's modules, some artifacts, and ONNX Runtime Web.

```
index.html, style.css, *.js    the page: modules of ours, and of each kind of task its `answer.js`
site.json                      what the page is about, with the SHA-256 of all that it loads besides
words/*.json                   its sentences in the languages that there are
runtime/                       ONNX Runtime Web
graphs/*.onnx                  by the start of their SHA-256
offline.js, manifest.webmanifest, icon-*.png    the service worker, and what a telephone needs to install the page
```
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import io
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import Any

from markdown_it import MarkdownIt
from PIL import Image, ImageDraw, ImageFont

from leanmed import __version__
from leanmed.errors import ArtifactError, DataError
from leanmed.files import sha256_bytes, whole_file
from leanmed.manifest import Manifest
from leanmed.outputs import Output
from leanmed.reading.raster import DEFAULT_LIMITS, Limits
from leanmed.runtime.artifact import Artifact, read_artifact
from leanmed.runtime.predictor import Predictor
from leanmed.tasks import TASKS
from leanmed.web.bundle import bundle
from leanmed.web.runtime import SCRIPT, VERSION, WASM, RuntimeMissing, fetch_runtime, read_runtime

PAGE = Path(__file__).parent / "page"
SITE = Output(
    "a web site",
    ("models", "runtime", "words"),
    "site.json",
    (
        "index.html",
        *(path.name for path in PAGE.glob("*.js")),
        *(f"{task}.js" for task in TASKS),
        "kinds.js",
        "style.css",
        "site.json",
        "manifest.webmanifest",
        "icon-*.png",
        "words",
        "runtime",
        "graphs",
    ),
)
FIRST_LINE = "<!doctype html><!-- a page of leanmed web -->\n"
SINGLE = Output("a page of leanmed web", (), begins=FIRST_LINE.encode())
COMMON = "default-src 'none'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
POLICY = (
    f"{COMMON}script-src 'self' blob: 'wasm-unsafe-eval'; style-src 'self'; connect-src 'self'; "
    "worker-src 'self' blob:; manifest-src 'self'"
)
ICONS = (192, 512)  # pixels, as telephones ask for
NOSCRIPT = "This page needs JavaScript: the model runs in the browser itself."
OTHERS = ("place_single.js", "offline.js", "retired.js")  # modules that are not beside the others of a site
READ = "image/jpeg,image/png,image/webp,image/bmp"


@dataclass(frozen=True)
class File:
    """A file that the page loads, and checks before it is used.

    Args:
        file: its place in the site.
        sha256: of its content.
        size: in bytes.
    """

    file: str
    sha256: str
    size: int

    @classmethod
    def of(cls, place: str, content: bytes) -> File:
        """Of a content."""
        return cls(place, sha256_bytes(content), len(content))


def group_by_model(artifacts: Sequence[Path], *, refuse_unfamiliar: bool = False) -> dict[str, list[Artifact]]:
    """Artifacts by the model that they are of, the smallest first: the same name means the same model.

    Args:
        artifacts: folders, or NAME=FOLDER; without a name, the one that the artifact's manifest has.
        refuse_unfamiliar: all must tell how familiar an image looks.

    Raises:
        ArtifactError: a folder holds none, or one that a page cannot feed, or that cannot refuse; or one model's
            artifacts take other images, or give other answers, or are the same.
    """
    models: dict[str, list[Artifact]] = {}
    for given in artifacts:
        name, folder = named_folder(given)
        artifact = read_artifact(folder)
        _check(folder, artifact.manifest)
        Predictor(artifact, refuse_unfamiliar=refuse_unfamiliar)  # which says what does not fit its manifest
        models.setdefault(name or artifact.manifest.name, []).append(artifact)
    for name, alike in models.items():
        alike.sort(key=lambda artifact: artifact.manifest.bytes)
        first = alike[0].manifest
        for other in alike[1:]:
            about = other.manifest
            if (about.task, about.labels, about.input) != (first.task, first.labels, first.input):
                raise ArtifactError(
                    f"expected artifacts of one name to be one model in several precisions, got two under {name!r} "
                    "that take other images or give other answers; name them, such as eyes=FOLDER lungs=FOLDER"
                )
        if len({artifact.sha256 for artifact in alike}) < len(alike):
            raise ArtifactError(f"expected different artifacts, got one twice under {name!r}; name each once")
    return models


def named_folder(artifact: Path) -> tuple[str, Path]:
    """NAME=FOLDER as both; a folder without a name as an empty one and the folder.

    Raises:
        DataError: one side of the equals sign is empty.
    """
    name, equals, folder = str(artifact).partition("=")
    if equals and not (name and folder):
        raise DataError(f"expected NAME=FOLDER, got {artifact}; give both, or the folder alone")
    if equals and "/" not in name and not artifact.exists():
        return name, Path(folder).absolute()
    return "", artifact.absolute()


def _check(folder: Path, manifest: Manifest) -> None:
    if manifest.input.kind == "intensities":
        raise ArtifactError(
            f"{folder}: expected an artifact that takes pictures, since browsers read no others, got one that takes "
            f"{manifest.input.unit or 'stored'} intensities; use leanmed predict"
        )
    if not _kind_module(manifest.task).is_file():
        raise ArtifactError(
            f"{folder}: expected an artifact of a kind that the page knows, got one of the kind {manifest.task}; use "
            "leanmed predict or leanmed serve"
        )


def _kind_module(task: str) -> Path:
    return Path(__file__).parent.parent / "tasks" / task / "answer.js"


def page_modules() -> dict[str, str]:
    """File name -> text, of all modules that run in the page or its worker."""
    modules = {path.name: path.read_text("utf-8") for path in PAGE.glob("*.js")}
    kinds = [task for task in TASKS if _kind_module(task).is_file()]
    modules |= {f"{task}.js": _kind_module(task).read_text("utf-8") for task in kinds}
    imports = "".join(f'import {{ {task} }} from "./{task}.js";\n' for task in kinds)
    text = f"/** The kinds of task by their names. */\n\n{imports}\nexport const KINDS = {{ {', '.join(kinds)} }};\n"
    return modules | {"kinds.js": text}


def words() -> dict[str, bytes]:
    """Language -> its file; English is the first."""
    found = {path.stem: path.read_bytes() for path in sorted((PAGE / "words").glob("*.json"))}
    return {"en": found.pop("en")} | found


def about_site(
    models: Mapping[str, Sequence[tuple[str, Manifest, str]]],
    *,
    limits: Limits = DEFAULT_LIMITS,
    refuse_unfamiliar: bool = False,
    runtime: Mapping[str, bytes] | None = None,
) -> dict[str, Any]:
    """What `site.json` holds.

    Args:
        models: name -> its artifacts, the first answering first: SHA-256, manifest and card of each.
        limits: of images.
        refuse_unfamiliar: give no answer to images unlike the training images.
        runtime: ONNX Runtime Web's files; None: a server answers.
    """
    files = {} if runtime is None else {"script": _runtime(runtime, SCRIPT), "wasm": _runtime(runtime, WASM)}
    return {
        "version": __version__,
        "server": runtime is None,
        "models": [
            {"name": name, "artifacts": [_about(*artifact) for artifact in alike]} for name, alike in models.items()
        ],
        "limits": {"max_bytes": limits.max_bytes, "max_pixels": limits.max_pixels},
        "refuse_unfamiliar": refuse_unfamiliar,
        "runtime": {"version": VERSION, **{name: asdict(file) for name, file in files.items()}},
        "words": list(words()),
    }


def _runtime(runtime: Mapping[str, bytes], name: str) -> File:
    return File.of(f"runtime/{name}", runtime[name])


def _about(sha256: str, manifest: Manifest, card: str) -> dict[str, Any]:
    """What the page must know of an artifact, to answer and to tell what the answer is worth."""
    figure = manifest.figures.get(manifest.main_score, {})
    value, low, high = (figure.get(key) for key in ("value", "low", "high"))
    told = None if value is None else {"name": manifest.main_score, "value": f"{value:.3f}", "low": None, "high": None}
    if told and low is not None and high is not None:
        told |= {"low": f"{low:.3f}", "high": f"{high:.3f}"}
    return {
        "sha256": sha256,
        "version": __version__,
        "task": manifest.task,
        "labels": list(manifest.labels),
        "threshold": manifest.threshold,
        "rule": manifest.threshold_rule,
        "recalibrated": bool(manifest.recalibration),
        "pieces": manifest.pieces,
        "precision": manifest.precision,
        "input": manifest.input.model_dump(include={"kind", "side", "reduced"})
        | {"min_side": max(DEFAULT_LIMITS.min_side, manifest.input.min_side)},
        "familiar": manifest.familiar.threshold if manifest.familiar else None,
        "score": told,
        "leak": manifest.leak,
        "card": card_as_html(card),
        "graphs": {
            name: asdict(File(f"graphs/{graph.sha256[:16]}.onnx", graph.sha256, graph.bytes))
            for name, graph in manifest.graphs.items()
        },
    }


def card_as_html(card: str) -> str:
    """A card's Markdown as HTML; what is HTML or a link in it is shown as text, and nothing in it loads anything."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link", "autolink"])
    tokens = reader.parse(card)
    for token in tokens:
        token.attrs.pop("style", None)  # the page's policy allows none
    rendered: str = reader.renderer.render(tokens, reader.options, {})
    return rendered.replace("<th></th>", "<td></td>")  # a corner that is the header of nothing


def index(*, policy: str = POLICY, head: str, tail: str, noscript: str = NOSCRIPT, accept: str = READ) -> str:
    """The page's HTML."""
    page = Template((PAGE / "index.html").read_text("utf-8"))
    given = {"policy": html.escape(policy), "head": head, "tail": tail, "noscript": noscript, "accept": accept}
    return page.substitute(given, version=html.escape(__version__))


def linked_index(**given: str) -> str:
    """The page whose files lie beside it."""
    head = (
        '<link rel="stylesheet" href="style.css">\n'
        '<link rel="manifest" href="manifest.webmanifest" crossorigin="use-credentials">\n'
        '<link rel="icon" href="icon-192.png">'
    )
    return index(head=head, tail='<script type="module" src="app.js"></script>', **given)


def page_files(models: Collection[str]) -> dict[str, bytes]:
    """The page's own files but for `index.html` and `site.json`: place in the site -> content.

    Args:
        models: their names, by which a telephone calls the page once it is installed.
    """
    modules = {n: t for n, t in page_modules().items() if n not in OTHERS}
    modules["engine.js"] = bundle(modules, "engine.js")  # of the worker, which imports nothing
    files = {name: text.encode() for name, text in modules.items()}
    files |= {f"words/{code}.json": content for code, content in words().items()}
    files |= {f"icon-{side}.png": _icon(side) for side in ICONS}
    icons = [{"src": f"icon-{side}.png", "sizes": f"{side}x{side}", "type": "image/png"} for side in ICONS]
    about = {
        "name": f"{', '.join(models)}: leanmed, research use only, not a medical device",
        "short_name": next(iter(models)),
        "start_url": ".",
        "scope": ".",
        "display": "standalone",
        "background_color": "#ffffff",
        "theme_color": "#00456b",
        "icons": icons,
    }
    style = (PAGE / "style.css").read_bytes()
    return files | {"style.css": style, "manifest.webmanifest": json.dumps(about, indent=1).encode()}


def site_files(
    models: Mapping[str, Sequence[Artifact]], runtime: Mapping[str, bytes], **about: Any
) -> dict[str, bytes]:
    """Everything that a static site is: place -> content. The service worker keeps all of the others."""
    files = {"index.html": linked_index().encode(), **page_files(models), **_large_files(models, runtime)}
    files["site.json"] = json.dumps(_described(models, runtime, **about), ensure_ascii=False).encode()
    hashes = json.dumps({place: sha256_bytes(content) for place, content in sorted(files.items())}, indent=1)
    head = f"const CACHE = {json.dumps(sha256_bytes(hashes.encode())[:16])};\nconst FILES = {hashes};\n\n"
    return files | {"offline.js": head.encode() + (PAGE / "offline.js").read_bytes()}


def _described(models: Mapping[str, Sequence[Artifact]], runtime: Mapping[str, bytes], **about: Any) -> dict[str, Any]:
    found = {name: [(a.sha256, a.manifest, a.card) for a in alike] for name, alike in models.items()}
    return about_site(found, runtime=runtime, **about)


def _large_files(models: Mapping[str, Sequence[Artifact]], runtime: Mapping[str, bytes]) -> dict[str, bytes]:
    """ONNX Runtime Web and the graphs, which are loaded when they are needed."""
    files = {f"runtime/{name}": file for name, file in runtime.items()}
    for artifact in (artifact for alike in models.values() for artifact in alike):
        for name, graph in artifact.graphs.items():
            files[f"graphs/{artifact.manifest.graphs[name].sha256[:16]}.onnx"] = graph
    return files


def single_file(models: Mapping[str, Sequence[Artifact]], runtime: Mapping[str, bytes], **about: Any) -> str:
    """The page as one text that holds everything, each loaded file packed by gzip and written in base64."""
    modules = page_modules()
    modules["place.js"] = modules.pop("place_single.js")
    script, style = bundle(modules, "app.js"), (PAGE / "style.css").read_text("utf-8")
    site = json.dumps(_described(models, runtime, **about), ensure_ascii=False).encode()
    files = {"site.json": site, **_large_files(models, runtime)}
    files["engine.js"] = bundle(modules, "engine.js").encode()
    files |= {f"words/{code}.json": content for code, content in words().items()}
    policy = (
        f"{COMMON}script-src {_csp_hash(script)} blob: 'wasm-unsafe-eval'; style-src {_csp_hash(style)}; "
        "worker-src blob:; connect-src 'none'"
    )
    held = "".join(
        f'<script type="text/plain" id="file:{place}">{base64.b64encode(gzip.compress(content, mtime=0)).decode()}'
        "</script>\n"
        for place, content in files.items()
    )
    tail = f'{held}<script type="module">{script}</script>'
    page = index(policy=policy, head=f"<style>{style}</style>", tail=tail)
    return FIRST_LINE + page.partition("\n")[2]


def _csp_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _icon(side: int) -> bytes:
    """A square for a telephone's screen: the letters lm on blue."""
    picture = Image.new("RGB", (side, side), "#00456b")
    letters = ImageFont.load_default(side // 2)
    ImageDraw.Draw(picture).text((side / 2, side / 2), "lm", fill="white", font=letters, anchor="mm")
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def find_runtime(folder: Path | None, tell: Callable[[str], None]) -> Mapping[str, bytes]:
    """ONNX Runtime Web's files: from a folder, which is filled from npm where it lacks them; or of this install.

    Raises:
        DataError: they are not there, and cannot be fetched.
    """
    try:
        if folder is None:
            return read_runtime()
        if not folder.exists():
            tell(f"fetching ONNX Runtime Web {VERSION} from npm into {folder}")
            fetch_runtime(folder)
        return read_runtime(folder)
    except RuntimeMissing as error:
        raise DataError(
            f"expected ONNX Runtime Web {VERSION}, got none that fits: {error}; add --runtime with the name of a new "
            f"folder, into which it is fetched from npm (14 MB), or of one with its files {SCRIPT} and {WASM}"
        ) from error


def write_web(
    artifacts: Sequence[Path],
    out: Path,
    *,
    single: bool = False,
    runtime: Path | None = None,
    overwrite: bool = False,
    refuse_unfamiliar: bool = False,
    tell: Callable[[str], None] = print,
) -> int:
    """Write a site, or with `single` one file. The bytes written.

    Args:
        artifacts: as of `group_by_model`.
        out: a folder, or with `single` a file.
        runtime: as of `find_runtime`.
        overwrite: replace an older one.
        refuse_unfamiliar: the page gives no answer to images unlike the training images.
        tell: takes one line at a time.

    Raises:
        ArtifactError, DataError, OutputError: as of `group_by_model`, `find_runtime` and `Output`; or `out` is named
            like the other of the two.
    """
    if single != (out.suffix.lower() in (".html", ".htm")):
        raise DataError(
            f"expected {'--single-file with a name that ends in .html' if single else '--out to name a folder'}, got "
            f"--out {out}; {'add .html' if single else 'add --single-file for one page, or choose another name'}"
        )
    output = SINGLE if single else SITE
    output.check(out, overwrite=overwrite)
    models = group_by_model(artifacts, refuse_unfamiliar=refuse_unfamiliar)
    found = find_runtime(runtime, tell)
    if single:
        page = single_file(models, found, refuse_unfamiliar=refuse_unfamiliar).encode()
        with whole_file(out) as temporary:
            temporary.write_bytes(page)
        return len(page)
    files = site_files(models, found, refuse_unfamiliar=refuse_unfamiliar)
    with SITE.folder(out, overwrite=overwrite) as folder:
        for place, content in files.items():
            (folder / place).parent.mkdir(exist_ok=True)
            (folder / place).write_bytes(content)
    return sum(map(len, files.values()))

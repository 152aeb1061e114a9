"""An artifact: one folder that holds the whole computation, from decoded pixels to the answer.

```
model.onnx      pixels (h, w, c) of any size in; out, what `tasks/KIND/answer.py` names; up to four graphs
traces.bin      if there is one: of each training image some codes, by which copies of it are recognised
leanmed.json    the Manifest, with the SHA-256 of each graph and of itself
CARD.md         what it is for, what it was made from, how good it is
```
The card has no hash: whoever publishes the model fills in what a training cannot know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from leanmed.errors import ArtifactError
from leanmed.files import sha256_bytes, sha256_json, write_json, write_text
from leanmed.manifest import FORMAT, Graph, Manifest, Traces, migrated
from leanmed.outputs import Output
from leanmed.tasks import TASKS

MANIFEST = "leanmed.json"
CARD = "CARD.md"
TRACES = "traces.bin"
ARTIFACT = Output("an artifact", ("graphs", "sha256"), MANIFEST, (MANIFEST, CARD, TRACES, "*.onnx"))
MAX_CARD_BYTES = 2**20
MAX_MANIFEST_BYTES = 2**26  # it names a million training images in a third of that


class Artifact(BaseModel):
    """A checked artifact in memory: the manifest, its hash, and the bytes of each graph."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    manifest: Manifest
    sha256: str
    graphs: dict[str, bytes]
    card: str
    traces: bytes = b""

    @property
    def graph(self) -> bytes:
        """The bytes of the one graph, for artifacts that have one.

        Raises:
            ArtifactError: it has others.
        """
        if "model" not in self.graphs:
            raise ArtifactError(
                f"expected an artifact with a graph `model`, got {sorted(self.graphs)}; take one that has it"
            )
        return self.graphs["model"]


def write_artifact(
    out: Path,
    manifest: Manifest,
    graphs: Mapping[str, bytes],
    card: str,
    traces: bytes = b"",
    *,
    overwrite: bool = False,
) -> Artifact:
    """Write an artifact folder whole, filling in the files' hashes and sizes.

    Raises:
        OutputError: `out` holds something; with `overwrite`, something else than an artifact.
    """
    entries = {n: Graph(file=f"{n}.onnx", sha256=sha256_bytes(b), bytes=len(b)) for n, b in graphs.items()}
    traced = Traces(sha256=sha256_bytes(traces), bytes=len(traces)) if traces else None
    manifest = manifest.model_copy(update={"graphs": entries, "traces": traced})
    content = manifest.model_dump(mode="json")
    with ARTIFACT.folder(out, overwrite=overwrite) as folder:
        for name, graph in graphs.items():
            (folder / entries[name].file).write_bytes(graph)
        if traces:
            (folder / TRACES).write_bytes(traces)
        write_json(folder / MANIFEST, content | {"sha256": sha256_json(content)})
        write_text(folder / CARD, card)
    return Artifact(manifest=manifest, sha256=sha256_json(content), graphs=dict(graphs), card=card, traces=traces)


def read_artifact(path: Path) -> Artifact:
    """Read an artifact and check every hash before anything of it is used.

    Raises:
        ArtifactError: no artifact, damaged, edited by hand, or written by a newer leanmed.
    """
    manifest, digest = _read_manifest(path)
    graphs = {name: _read_file(path / graph.file, graph) for name, graph in manifest.graphs.items()}
    kept = manifest.traces if (path / TRACES).is_file() else None  # left behind, they are missed by nobody who predicts
    traces = _read_file(path / TRACES, kept) if kept else b""
    return Artifact(manifest=manifest, sha256=digest, graphs=graphs, card=read_card(path), traces=traces)


def read_card(path: Path) -> str:
    """An artifact's card, or nothing where it was left behind: a graph predicts without it.

    Its text may have been edited since, as it is meant to be; what is no text in UTF-8 is shown as such.
    """
    file = path / CARD
    if not file.is_file():
        return ""
    with file.open("rb") as opened:
        return opened.read(MAX_CARD_BYTES).decode(errors="replace")


def _read_manifest(path: Path) -> tuple[Manifest, str]:
    file = path / MANIFEST
    if not file.is_file():
        raise ArtifactError(f"{path}: expected an artifact, a folder with {MANIFEST}, got none; check the path")
    try:
        content = _parse(file)
        digest = content.pop("sha256")
        if sha256_json(content) != digest:
            raise ArtifactError(
                f"{file} was edited or damaged: its hash does not match; take a fresh copy or export again"
            )
        manifest = Manifest.model_validate(migrated(content))
        if manifest.task not in TASKS:
            raise ArtifactError(
                f"{file}: expected a kind of task among {', '.join(TASKS)}, got {manifest.task!r}; install a newer "
                "leanmed"
            )
        TASKS[manifest.task].answer.check(manifest.labels, manifest.threshold)
        return manifest, digest
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{file} is damaged ({_reason(error)}); take a fresh copy of the artifact") from error


def _reason(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return repr(error)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'manifest'}: {first['msg']}"


def _parse(file: Path) -> Any:
    size = file.stat().st_size
    if size > MAX_MANIFEST_BYTES:
        raise ValueError(f"expected at most {MAX_MANIFEST_BYTES:,} bytes, got {size:,}")
    content = json.loads(file.read_bytes())
    if content.get("format", 0) > FORMAT:
        raise ArtifactError(
            f"{file}: expected format {FORMAT} or older, got {content['format']}; install a newer leanmed"
        )
    return content


def _read_file(file: Path, graph: Graph | Traces) -> bytes:
    try:
        size = file.stat().st_size
        content = file.read_bytes() if size == graph.bytes else b""
    except OSError as error:
        raise ArtifactError(f"{file} cannot be read ({error.strerror}); take a fresh copy of it") from error
    if size != graph.bytes:
        raise ArtifactError(f"{file}: expected {graph.bytes} bytes, got {size}: damaged; take a fresh copy of it")
    if sha256_bytes(content) != graph.sha256:
        raise ArtifactError(
            f"{file} does not match its hash in {MANIFEST}: damaged or replaced; take a fresh copy of it"
        )
    return content

"""ONNX Runtime Web: which files of which release a page holds, and where they come from.

The standard library alone, since the build of the wheel uses it too: it puts the files into the package.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import urllib.request
import zlib
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path

VERSION = "1.30.0"
SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
SHA256 = {
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
ADDRESS = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
PACKAGED = Path(__file__).parent / "onnxruntime-web"  # filled when the package is built
MAX_BYTES = 2**28  # of npm's archive; it has a quarter of that
SECONDS = 60.0  # without a byte


class RuntimeMissing(Exception):
    """The files are not there, or are not those of the release."""


def read_runtime(folder: Path = PACKAGED) -> Mapping[str, bytes]:
    """The files by name, once it is sure that they are those of the release.

    Raises:
        RuntimeMissing: one is missing, or another one.
    """
    found = {}
    for name, wanted in SHA256.items():
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            raise RuntimeMissing(f"{folder / name} cannot be read ({error.strerror})") from error
        found[name] = _checked(name, content, wanted)
    return found


def fetch_runtime(folder: Path, address: str = ADDRESS) -> None:
    """Get the files from npm's registry, check them, and write them into a folder.

    Raises:
        RuntimeMissing: the registry cannot be reached, or gives something else.
    """
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as response:  # noqa: S310 - an address of ours
            archive = response.read(MAX_BYTES)
        with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
            found = {name: _member(packed, f"package/dist/{name}") for name in SHA256}
    except (OSError, EOFError, ValueError, KeyError, tarfile.TarError, zlib.error, HTTPException) as error:
        raise RuntimeMissing(f"{address} cannot be read ({error})") from error
    checked = {name: _checked(name, content, SHA256[name]) for name, content in found.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in checked.items():
        part = folder / f".{name}.part"
        part.write_bytes(content)
        part.replace(folder / name)


def _member(packed: tarfile.TarFile, name: str) -> bytes:
    file = packed.extractfile(name)
    if file is None:
        raise KeyError(name)
    return file.read(MAX_BYTES)


def _checked(name: str, content: bytes, wanted: str) -> bytes:
    got = hashlib.sha256(content).hexdigest()
    if got != wanted:
        raise RuntimeMissing(f"{name} has the SHA-256 {got}, and not {wanted} as in release {VERSION}")
    return content

"""Modules of the page that compute something, by themselves in a browser, against Python."""

from __future__ import annotations

import base64
import hashlib
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chromium import Files, Visit
from image_set import ORIENTATION, turned, write_image_set
from leanmed.reading.images import read_reduced
from leanmed.tasks.segmentation.answer import packed, unpacked
from leanmed.tasks.segmentation.pieces import largest_pieces
from leanmed.web.site import page_modules

LIMITS = {"max_bytes": 2**28, "max_pixels": 50_000_000}


@pytest.fixture(scope="module")
def modules(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    """A bare page beside all modules, which can call them."""
    folder = tmp_path_factory.mktemp("modules")
    for name, text in page_modules().items():
        (folder / name).write_text(text)
    (folder / "index.html").write_text("<title>modules</title>")
    served = Files(folder)
    visit = Visit(browser, served.address)
    yield visit
    visit.close()
    served.end()


def call(modules: Visit, code: str, given: Any = None) -> Any:
    """The value of an asynchronous function's body, to which `given` and `load(module)` are known."""
    return modules.page.evaluate(
        f"async given => {{ const load = name => import(`/${{name}}`); {code} }}",
        given,
    )


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 1000])
def test_sha256_is_the_standard_s_also_without_https(size: int, modules: Visit) -> None:
    content = bytes(range(256)) * 4
    found = call(
        modules,
        "const { sha256Plain } = await load('sha256.js'); return sha256Plain(Uint8Array.from(given));",
        list(content[:size]),
    )
    assert found == hashlib.sha256(content[:size]).hexdigest()


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 33)])
def test_planes_are_packed_and_unpacked_as_in_python(size: tuple[int, int], modules: Visit) -> None:
    height, width = size
    smooth = np.add.outer(np.arange(height), np.arange(width)).astype(np.uint8)  # rows that Pillow filters
    for plane in (smooth, np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)):
        ours = call(
            modules,
            "const { packPlane } = await load('png.js'); "
            "return packPlane(Uint8Array.from(given.plane), given.width, given.height);",
            {"plane": plane.ravel().tolist(), "width": width, "height": height},
        )
        assert (unpacked(base64.b64decode(ours)) == plane).all()
        stream = io.BytesIO()
        Image.fromarray(plane).save(stream, "PNG", optimize=True)
        for content in (packed(plane), stream.getvalue()):
            theirs = call(
                modules,
                "const { unpackPlane } = await load('png.js'); "
                "const { plane, width, height } = await unpackPlane(given); return [[height, width], [...plane]];",
                base64.b64encode(content).decode(),
            )
            assert theirs == [[height, width], plane.ravel().tolist()]


def read(modules: Visit, path: Path, **taken: Any) -> tuple[np.ndarray[Any, Any], int]:
    """What the page makes of a file: pixels, and by how much they are reduced."""
    given = {
        "content": base64.b64encode(path.read_bytes()).decode(),
        "input": {"side": 32, "reduced": False, "min_side": 8} | taken,
        "limits": LIMITS,
    }
    width, height, scale, pixels = call(
        modules,
        """
        const { fromBase64 } = await load('png.js');
        const { readImage } = await load('image.js');
        try {
          const file = new Blob([fromBase64(given.content)]);
          const { pixels, width, height, scale } = await readImage(file, given.input, given.limits);
          let letters = '';
          for (let at = 0; at < pixels.length; at += 8192) {
            letters += String.fromCharCode(...pixels.subarray(at, at + 8192));
          }
          return [width, height, scale, btoa(letters)];
        } catch (error) { return [error.message, 0, 0, '']; }
        """,
        given,
    )
    if isinstance(width, str):
        raise ValueError(width)
    return np.frombuffer(base64.b64decode(pixels), np.uint8).reshape(height, width, 4), scale


def scene(width: int, height: int) -> Image.Image:
    """A made picture with colours and edges."""
    y, x = np.mgrid[:height, :width]
    planes = [(x * 255 // width), (y * 255 // height), ((x // 9 + y // 7) % 2) * 200]
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))


def test_pixels_are_python_s_of_every_form_of_file(modules: Visit, tmp_path: Path) -> None:
    for path in write_image_set([scene(90, 61)], tmp_path / "images", telephone=(960, 720)):
        for reduced in (False, True):
            ours, scale = read_reduced(path, side=32 if reduced else None)
            theirs, same = read(modules, path, reduced=reduced)
            assert (theirs.shape, same) == (ours.shape, scale), path.name
            apart = np.abs(theirs.astype(int) - ours.astype(int))
            lossy = path.suffix == ".jpg"
            assert apart.max() <= (24 if lossy and scale > 1 else 2 if lossy else 0), (path.name, reduced)
            assert apart.mean() <= (1.0 if lossy else 0.0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_as_exif_says(orientation: int, modules: Visit, tmp_path: Path) -> None:
    turned(scene(40, 24), orientation, tmp_path / "a.jpg")
    ours, _ = read_reduced(tmp_path / "a.jpg")
    theirs, _ = read(modules, tmp_path / "a.jpg")
    assert theirs.shape == ours.shape
    assert np.abs(theirs.astype(int) - ours.astype(int)).max() <= 2


def test_the_colour_under_transparent_places_is_kept(modules: Visit, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (30, 40, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (read(modules, tmp_path / "a.png")[0] == pixels).all()


def png(width: int, height: int, rows: bytes, *, interlaced: int = 0) -> bytes:
    """A PNG of RGBA with these rows, each after its filter's number."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 6, 0, 0, interlaced])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_transparent_places_are_read_by_each_filter_of_png(modules: Visit, tmp_path: Path) -> None:
    rows = np.random.default_rng(4).integers(0, 256, (10, 1 + 4 * 9), dtype=np.uint8)
    rows[:, 0] = np.arange(10) % 5
    (tmp_path / "a.png").write_bytes(png(9, 10, rows.tobytes()))
    assert (read(modules, tmp_path / "a.png")[0] == np.array(Image.open(tmp_path / "a.png"))).all()


def test_transparent_places_that_are_stored_otherwise_are_read_by_webgl(modules: Visit, tmp_path: Path) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (30, 40, 4), dtype=np.uint8)
    Image.fromarray(pixels).quantize(16).save(tmp_path / "a.png", transparency=0)
    assert (read(modules, tmp_path / "a.png")[0] == read_reduced(tmp_path / "a.png")[0]).all()


@pytest.mark.parametrize("orientation", [1, 6])
def test_transparent_places_that_are_to_be_turned_are_refused(orientation: int, modules: Visit, tmp_path: Path) -> None:
    pixels = np.random.default_rng(6).integers(0, 256, (30, 40, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    if orientation == 1:
        assert (read(modules, tmp_path / "a.png")[0] == pixels).all()
    else:
        with pytest.raises(ValueError, match="turned"):
            read(modules, tmp_path / "a.png")


@pytest.mark.parametrize("share", [0.5, 40])
def test_a_png_with_too_few_rows_is_damaged_and_more_than_its_rows_are_not_unpacked(
    share: float, modules: Visit, tmp_path: Path
) -> None:
    rows = bytes(int(share * 10 * 37))
    (tmp_path / "a.png").write_bytes(png(9, 10, rows))
    code = """
    const { fromBase64, unpackPixels } = await load('png.js');
    try { return (await unpackPixels(fromBase64(given))).pixels.length; } catch (error) { return error.message; }
    """
    content = base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    assert call(modules, code, content) == ("damaged" if share < 1 else 4 * 9 * 10)


def test_what_browsers_would_not_read_as_python_does_is_refused(modules: Visit, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    scene(40, 24).save(tmp_path / "turned.webp", exif=exif)
    scene(40, 24).save(tmp_path / "upright.webp", exif=Image.Exif())
    Image.new("1", (40_000, 10)).save(tmp_path / "wide.png")
    scene(40, 24).save(tmp_path / "one.png", save_all=True)
    for name, said in {"turned.webp": "turned", "wide.png": "pixels"}.items():
        with pytest.raises(ValueError, match=said):
            read(modules, tmp_path / name)
    for name in ("upright.webp", "one.png"):
        assert read(modules, tmp_path / name)[0].shape == (24, 40, 4)


def test_a_header_ends_whatever_the_bytes_are(modules: Visit, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    stream = io.BytesIO()
    scene(40, 24).save(stream, "JPEG", progressive=True)
    sound = {"jpg": stream.getvalue()}
    for form in ("PNG", "WEBP", "BMP"):
        stream = io.BytesIO()
        scene(40, 24).save(stream, form)
        sound[form] = stream.getvalue()
    damaged = []
    for content in sound.values():
        for _ in range(40):
            changed = bytearray(content[: rng.integers(4, len(content) + 1)])
            for at in rng.integers(4, len(changed) + 1, 6):
                if at < len(changed):
                    changed[at] = rng.integers(256)
            damaged.append(base64.b64encode(changed).decode())
    told = call(
        modules,
        """
        const { fromBase64 } = await load('png.js');
        const { inspect } = await load('header.js');
        return given.map((content) => {
          try { return typeof inspect(fromBase64(content)).width; } catch (error) { return error.constructor.name; }
        });
        """,
        damaged,
    )
    assert set(told) <= {"number", "Refused"}


def test_pieces_are_those_of_python(modules: Visit) -> None:
    rng = np.random.default_rng(3)
    for _ in range(8):
        mask = (rng.random((17, 23)) < 0.35).astype(np.uint8) * rng.integers(1, 3, (17, 23), dtype=np.uint8)
        level = [255] * mask.size
        found = call(
            modules,
            """
            const { segmentation } = await load('segmentation.js');
            const { unpackPlane } = await load('png.js');
            const about = { labels: ['a', 'b'], threshold: null, pieces: 'image' };
            const planes = [given.mask, given.level].map((data) => ({ data: Uint8Array.from(data), dims: given.dims }));
            const line = await segmentation.decide(planes, about, { scale: 1 });
            return [...(await unpackPlane(line.mask)).plane];
            """,
            {"mask": mask.ravel().tolist(), "level": level, "dims": list(mask.shape)},
        )
        assert (np.array(found).reshape(mask.shape) == largest_pieces(mask)).all()

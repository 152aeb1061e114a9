"""What `leanmed web` writes, and what it refuses to."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from artifact_fixtures import mean_red_graph
from chromium import Files
from leanmed.errors import ArtifactError, DataError
from leanmed.files import sha256_bytes
from leanmed.manifest import Input
from leanmed.tasks import TASKS
from leanmed.web import runtime
from leanmed.web.bundle import bundle
from leanmed.web.runtime import SHA256, RuntimeMissing, fetch_runtime, read_runtime
from leanmed.web.site import (
    ICONS,
    card_as_html,
    find_runtime,
    group_by_model,
    page_modules,
    single_file,
    words,
    write_web,
)

Make = Callable[..., Path]


def silent(line: str) -> None:
    """Nothing is told."""


def test_artifacts_of_one_name_are_one_model_the_smallest_first(make_artifact: Make) -> None:
    model = onnx.load_from_string(mean_red_graph())
    model.doc_string = "as large weights would be"
    large = make_artifact("large", model.SerializeToString())
    small = make_artifact("small", precision="int8")
    models = group_by_model([large, small, Path(f"other={large}")])
    assert {name: [one.manifest.precision for one in alike] for name, alike in models.items()} == {
        "mean-red": ["int8", "fp32"],
        "other": ["fp32"],
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": ("a", "b")}, "take other images or give other answers"),
        ({}, "got one twice under 'mean-red'"),
    ],
)
def test_one_name_for_different_models_or_for_one_artifact_twice_is_refused(
    changes: dict[str, Any], said: str, make_artifact: Make
) -> None:
    one, other = make_artifact("one"), make_artifact("other", **changes)
    with pytest.raises(ArtifactError, match=said):
        group_by_model([one, other])


def test_an_artifact_that_takes_no_pictures_is_refused(make_artifact: Make, tmp_path: Path) -> None:
    taken = Input(kind="intensities", dtype="int16", unit="HU", side=32)
    artifact = make_artifact("ct", input=taken)
    with pytest.raises(ArtifactError, match="got one that takes HU intensities; use leanmed predict"):
        write_web([artifact], tmp_path / "site", tell=silent)
    assert not (tmp_path / "site").exists()


def test_every_kind_of_task_can_be_shown() -> None:
    modules = page_modules()
    assert {f"{task}.js" for task in TASKS} <= modules.keys()
    assert all(f"{task}, " in modules["kinds.js"] or f"{task} }}" in modules["kinds.js"] for task in TASKS)


def test_a_site_tells_the_hash_and_size_of_all_that_it_loads(tiny_artifact: Path, tmp_path: Path) -> None:
    write_web([tiny_artifact], tmp_path / "site", tell=silent)
    site = json.loads((tmp_path / "site/site.json").read_text())
    (model,) = site["models"]
    listed = [site["runtime"]["script"], site["runtime"]["wasm"], *model["artifacts"][0]["graphs"].values()]
    for file in listed:
        content = (tmp_path / "site" / file["file"]).read_bytes()
        assert (sha256_bytes(content), len(content)) == (file["sha256"], file["size"])
    kept = re.search(r"const FILES = (\{.*?\});", (tmp_path / "site/offline.js").read_text(), re.S)
    assert kept
    there = {
        str(path.relative_to(tmp_path / "site")): sha256_bytes(path.read_bytes())
        for path in (tmp_path / "site").rglob("*")
        if path.is_file() and path.name != "offline.js"
    }
    assert json.loads(kept[1]) == there
    manifest = json.loads((tmp_path / "site/manifest.webmanifest").read_text())
    assert [icon["sizes"] for icon in manifest["icons"]] == [f"{side}x{side}" for side in ICONS]


def test_another_artifact_or_version_makes_another_cache(make_artifact: Make, tmp_path: Path) -> None:
    versions = set()
    for threshold in (0.5, 0.5, 0.6):
        artifact = make_artifact("one", threshold=threshold)
        write_web([artifact], tmp_path / "site", overwrite=True, tell=silent)
        versions.add((tmp_path / "site/offline.js").read_text().splitlines()[0])
    assert len(versions) == 2


def test_the_page_forbids_everything_but_itself(tiny_artifact: Path, tmp_path: Path) -> None:
    write_web([tiny_artifact], tmp_path / "site", tell=silent)
    page = (tmp_path / "site/index.html").read_text()
    assert "default-src &#x27;none&#x27;" in page
    assert "unsafe-inline" not in page
    assert "'unsafe-eval'" not in page.replace("&#x27;", "'")
    for path in (tmp_path / "site").glob("*.*"):
        if path.suffix in (".js", ".html", ".css"):
            assert not re.search(r"https?://", path.read_text()), path.name


def test_one_file_holds_its_scripts_under_their_hashes(tiny_artifact: Path) -> None:
    models = group_by_model([tiny_artifact])
    page = single_file(models, read_runtime())
    assert "connect-src &#x27;none&#x27;" in page
    script = re.search(r'<script type="module">(.*)</script>', page, re.S)
    assert script
    digest = hashlib.sha256(script[1].encode()).digest()
    assert f"sha256-{base64.b64encode(digest).decode()}" in page
    assert page.count("</script>") == page.count("<script"), "no text ends a script early"


def test_a_bundle_holds_each_module_once_and_refuses_names_that_meet() -> None:
    modules = {
        "a.js": 'import { b } from "./b.js";\nimport { c } from "./c.js";\n\nexport const a = b + c;\n',
        "b.js": 'import { c } from "./c.js";\n\nexport const b = c;\n',
        "c.js": "export const c = 1;\n",
    }
    text = bundle(modules, "a.js")
    assert [text.count(f"const {name} =") for name in "abc"] == [1, 1, 1]
    assert "import" not in text
    assert "export" not in text
    with pytest.raises(ValueError, match=r"got c in c\.js and b\.js"):
        bundle(modules | {"b.js": 'import { c } from "./c.js";\nconst c = 2;\n'}, "a.js")
    with pytest.raises(ValueError, match="ring"):
        bundle(modules | {"c.js": 'import { a } from "./a.js";\n'}, "a.js")


def test_every_module_of_the_page_fits_into_one_text() -> None:
    modules = page_modules()
    for main, place in (("app.js", "place_single.js"), ("engine.js", "place_single.js")):
        text = bundle({**modules, "place.js": modules[place]}, main)
        assert not re.search(r"^(import|export) ", text, re.M)


def test_a_card_is_shown_as_text_that_loads_nothing() -> None:
    hostile = "<img src=x onerror=alert(1)>\n\n![x](http://a/b.png)\n\n[x](javascript:alert(1))"
    html = card_as_html(f"# A\n\n{hostile}\n\n| a |\n|--:|\n| 1 |\n")
    assert "<img" not in html
    assert "href" not in html
    assert "style=" not in html
    assert "<td>1</td>" in html


def test_languages_have_the_same_words_as_english() -> None:
    found = {code: json.loads(content) for code, content in words().items()}
    assert next(iter(found)) == "en"
    for code, own in found.items():
        assert own.keys() == found["en"].keys(), code
        assert own["refused"].keys() == found["en"]["refused"].keys(), code
        for key, sentence in found["en"].items():
            if isinstance(sentence, str):
                assert sorted(re.findall(r"\{\w+\}", own[key])) == sorted(re.findall(r"\{\w+\}", sentence)), (code, key)


def packed(files: dict[str, bytes]) -> bytes:
    """As npm packs them."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            about = tarfile.TarInfo(f"package/dist/{name}")
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return stream.getvalue()


def test_the_runtime_is_fetched_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {name: name.encode() for name in SHA256}
    (tmp_path / "npm").mkdir()
    (tmp_path / "npm/good.tgz").write_bytes(packed(files))
    (tmp_path / "npm/less.tgz").write_bytes(packed(dict(list(files.items())[:1])))
    served = Files(tmp_path / "npm")
    with pytest.raises(RuntimeMissing, match="as in release"):
        fetch_runtime(tmp_path / "other", f"{served.address}good.tgz")
    assert not (tmp_path / "other").exists(), "nothing is written of what does not fit"
    monkeypatch.setattr(runtime, "SHA256", {name: sha256_bytes(content) for name, content in files.items()})
    fetch_runtime(tmp_path / "ort", f"{served.address}good.tgz")
    assert dict(read_runtime(tmp_path / "ort")) == files
    for address in ("less.tgz", "none.tgz"):
        with pytest.raises(RuntimeMissing, match="cannot be read"):
            fetch_runtime(tmp_path / "other", f"{served.address}{address}")
    served.end()


def test_without_the_runtime_the_error_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="add --runtime with the name of a new folder"):
        find_runtime(tmp_path / "empty", silent)


def test_refusing_the_unfamiliar_needs_artifacts_that_can_tell(tiny_artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="tells how familiar an image looks"):
        write_web([tiny_artifact], tmp_path / "site", refuse_unfamiliar=True, tell=silent)

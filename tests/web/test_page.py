"""The page of `leanmed web` in a real browser: its full way, with a network, without, and from a disk."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from artifact_fixtures import LABELS, mean_red_graph
from chromium import ANSWERED, Files, Visit
from grid_fixtures import Place
from leanmed.errors import DataError
from leanmed.manifest import Familiar
from leanmed.runtime.batch import answer
from leanmed.runtime.lines import kind_of, read_lines
from leanmed.runtime.predictor import load
from leanmed.web.site import write_web

NOTICE = "Research use only. Not a medical device."


def silent(line: str) -> None:
    """Nothing is told."""


@pytest.fixture(scope="module")
def site(tiny_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("web") / "site"
    write_web([Path(f"eyes={tiny_artifact}")], out, tell=silent)
    return out


@pytest.fixture
def visit(browser: Any, site: Path) -> Iterator[Visit]:
    served = Files(site)
    found = Visit(browser, served.address)
    yield found
    found.close()
    served.end()


def test_it_answers_with_a_network_and_then_without_and_asks_for_nothing_more(
    browser: Any, site: Path, photographs: list[Path]
) -> None:
    served = Files(site)
    visit = Visit(browser, served.address)
    visit.wait_until_offline()
    loaded = len(served.asked), len(visit.requests)
    (line,) = visit.ask(photographs[:1])
    assert line["label"] in LABELS
    assert (len(served.asked), len(visit.requests)) == loaded, "no request after the page was loaded"
    assert all(url.startswith((served.address, "blob:")) for url in visit.requests), "nothing comes from elsewhere"
    served.end()
    visit.page.goto(served.address)
    (again,) = visit.ask(photographs[:1])
    assert again["probabilities"] == line["probabilities"], "the second visit needs no network"
    assert visit.faults == []
    visit.close()


def test_its_policy_forbids_to_send_anything_elsewhere(visit: Visit) -> None:
    other = Files(Path(__file__).parent)
    visit.page.evaluate_handle(
        "address => { window.tried = fetch(address).then(() => 'sent', () => 'forbidden'); }", other.address
    )
    assert visit.page.evaluate("() => window.tried") == "forbidden"
    assert other.asked == []
    other.end()


def test_the_answer_comes_with_its_probability_threshold_and_notice(visit: Visit, photographs: list[Path]) -> None:
    (line,) = visit.ask(photographs[:1])
    text = visit.page.inner_text("article")
    assert line["label"] in text
    assert f"Calibrated probability of {LABELS[1]}: {100 * line['probability']:.0f} %." in text
    assert f"The answer is {LABELS[1]} from a probability of 50 % on, and {LABELS[0]} below it." in text
    assert visit.page.locator(".bar .mark").count() == 1
    assert visit.page.locator(".notice:visible").count() == 3
    assert all(NOTICE in text for text in visit.page.locator(".notice").all_inner_texts())
    label = visit.page.locator("canvas").get_attribute("aria-label")
    assert photographs[0].name in label
    assert line["label"] in label


def test_the_saved_lines_are_those_of_predict(
    visit: Visit, photographs: list[Path], tiny_artifact: Path, tmp_path: Path
) -> None:
    found = visit.ask(photographs[:3])
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in found))
    predictor = load(tiny_artifact)
    for line, path in zip(read_lines(tmp_path / "a.jsonl"), photographs, strict=False):
        ours = answer(predictor, path)
        assert line.keys() == ours.keys()
        assert {**line, "input": 0, "seconds": 0, "probability": 0, "probabilities": 0} == {
            **ours,
            "input": 0,
            "seconds": 0,
            "probability": 0,
            "probabilities": 0,
        }
        assert line["probability"] == pytest.approx(ours["probability"], abs=1e-5)
        assert kind_of(line) == kind_of(ours)


def _bomb(path: Path) -> Path:
    """A small PNG that says it is 20,000 x 20,000 pixels."""
    Image.new("1", (20_000, 20_000)).save(path)
    return path


def _cut(path: Path, photograph: Path) -> Path:
    content = photograph.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def test_what_is_no_sound_image_gets_a_reason_and_the_rest_goes_on(
    visit: Visit, photographs: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "note.jpg").write_text("<script>alert(1)</script>")
    Image.new("RGB", (4, 400)).save(tmp_path / "thin.png")
    Image.new("RGB", (40, 40)).save(
        tmp_path / "moving.png", save_all=True, append_images=[Image.new("RGB", (40, 40), "red")]
    )
    hostile = tmp_path / "<img src=x onerror=alert(1)>.png"
    shutil.copy(photographs[0], hostile)
    wrong = {
        tmp_path / "note.jpg": "JPEG, PNG, WebP or BMP",
        _cut(tmp_path / "cut.png", photographs[0]): "cut off",
        _bomb(tmp_path / "bomb.png"): "at most 50 million pixels",
        tmp_path / "thin.png": "at least 8 pixels",
        tmp_path / "moving.png": "a file of several",
    }
    files = [*wrong, hostile]
    lines = {line["input"]: line for line in visit.ask(files)}
    for path, reason in wrong.items():
        assert reason in lines[path.name]["error"], path.name
    assert "label" in lines[hostile.name]
    assert visit.page.locator("article .name", has_text="onerror").count() == 1, "a name is shown as text"
    assert visit.faults == []


def test_a_graph_that_is_not_the_page_s_own_is_not_run(browser: Any, site: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(site, tmp_path / "site")
    (graph,) = (changed / "graphs").iterdir()
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    served = Files(changed)
    visit = Visit(browser, served.address)
    visit.wait("#fault:not([hidden])")
    assert f"The model's file graphs/{graph.name} is damaged" in visit.page.inner_text("#fault")
    visit.close()
    served.end()


def test_one_file_opens_from_a_disk_and_answers(
    browser: Any, tiny_artifact: Path, photographs: list[Path], tmp_path: Path, site: Path
) -> None:
    page = tmp_path / "page.html"
    write_web([Path(f"eyes={tiny_artifact}")], page, single=True, tell=silent)
    visit = Visit(browser, page.as_uri())
    visit.wait_until_offline()
    lines = visit.ask(photographs[:2])
    assert [line["label"] in LABELS for line in lines] == [True, True]
    assert all(url.startswith(("file:", "blob:")) for url in visit.requests)
    assert visit.faults == []
    visit.close()


def test_the_faster_of_two_precisions_is_found_once_and_kept(
    browser: Any, make_artifact: Callable[..., Path], photographs: list[Path], tmp_path: Path
) -> None:
    one = make_artifact("one", mean_red_graph())
    other = make_artifact("other", mean_red_graph(), precision="int8")
    write_web([Path(f"eyes={one}"), Path(f"eyes={other}")], tmp_path / "site", tell=silent)
    served = Files(tmp_path / "site")
    visit = Visit(browser, served.address)
    visit.ask(photographs[:1])
    visit.wait("#state:has-text('is used from now on')")
    told = re.search(r"The faster one, (\w+) ", visit.page.inner_text("#state"))
    assert told
    visit.page.reload()
    (line,) = visit.ask(photographs[:1])
    fastest = {"fp32": one, "int8": other}[told[1]]
    assert line["artifact"] == load(fastest).artifact.sha256
    visit.page.wait_for_timeout(500)
    assert "from now on" not in visit.page.inner_text("#state"), "it is measured once"
    visit.close()
    served.end()


def test_points_and_a_box_go_to_the_artifact_in_pixels_of_the_image(browser: Any, grid: Place, tmp_path: Path) -> None:
    artifact = grid.artifact("prompted", "plain", "fp32")
    image = next(grid.data("prompted").rglob("*.png"))
    write_web([artifact], tmp_path / "site", tell=silent)
    served = Files(tmp_path / "site")
    visit = Visit(browser, served.address)
    (first,) = visit.ask([image])
    assert "prompts" not in first
    with Image.open(image) as opened:
        width, height = opened.size
    canvas = visit.page.locator("canvas")
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] / 4, "y": box["height"] / 2})
    visit.wait(".clear:visible")
    (line,) = visit.lines()
    assert line["prompts"]["points"][0] == pytest.approx([width / 4, height / 2], abs=1)
    assert line["prompts"]["labels"] == [1]
    assert line["pointed"][0][:2] == pytest.approx(line["prompts"]["points"][0], abs=1e-3)
    before = visit.page.locator("canvas").element_handle()
    visit.page.select_option("article select", "0")
    visit.page.locator("canvas").focus()
    visit.page.keyboard.press("ArrowRight")
    visit.page.keyboard.press("Enter")
    before.wait_for_element_state("hidden")
    visit.wait("canvas")
    assert visit.page.locator("canvas:focus").count() == 1
    (line,) = visit.lines()
    assert line["prompts"]["labels"] == [1, 0], "by the keyboard too"
    assert line["prompts"]["points"][1] == pytest.approx([0.52 * width, 0.5 * height], abs=1)
    assert visit.page.locator("article select").input_value() == "0"
    visit.page.click(".clear")
    visit.page.locator(".clear").wait_for(state="hidden")
    assert visit.lines()[0].keys() == first.keys()
    assert visit.faults == []
    visit.close()
    served.end()


def test_the_card_is_one_press_away_and_shows_no_more_than_its_text(
    browser: Any, make_artifact: Callable[..., Path], tmp_path: Path
) -> None:
    artifact = make_artifact("one", mean_red_graph())
    (artifact / "CARD.md").write_text("# Eyes\n\n<script>alert(1)</script>\n\n| a | b |\n|--:|---|\n| 1 | 2 |\n")
    write_web([artifact], tmp_path / "site", tell=silent)
    served = Files(tmp_path / "site")
    visit = Visit(browser, served.address)
    visit.wait_until_offline()
    visit.page.click("#card")
    assert "<script>alert(1)</script>" in visit.page.inner_text("#about-text")
    assert visit.page.locator("#about-text td").all_inner_texts() == ["1", "2"]
    visit.page.keyboard.press("Escape")
    assert not visit.page.locator("#about").is_visible()
    assert visit.faults == []
    visit.close()
    served.end()


def telling_graph() -> bytes:
    """The mean-red graph that also tells how familiar a picture is: as much as it is red."""
    model = onnx.load_from_string(mean_red_graph())
    model.graph.node.append(onnx.helper.make_node("Squeeze", ["positive"], ["familiar"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("familiar", onnx.TensorProto.FLOAT, []))
    return bytes(model.SerializeToString())


def test_an_unfamiliar_image_is_remarked_on_or_refused(
    browser: Any, make_artifact: Callable[..., Path], tmp_path: Path
) -> None:
    artifact = make_artifact("one", telling_graph(), familiar=Familiar(threshold=0.05, images=20, bytes=1))
    Image.new("RGB", (64, 64), (5, 0, 255)).save(tmp_path / "blue.png")
    Image.new("RGB", (64, 64), (200, 0, 255)).save(tmp_path / "red.png")
    files = [tmp_path / "blue.png", tmp_path / "red.png"]
    for refuse in (False, True):
        predictor = load(artifact, refuse_unfamiliar=refuse)
        ours = [answer(predictor, path) for path in files]
        write_web([artifact], tmp_path / "site", refuse_unfamiliar=refuse, overwrite=True, tell=silent)
        served = Files(tmp_path / "site")
        visit = Visit(browser, served.address)
        theirs = visit.ask(files)
        for one, other in zip(ours, theirs, strict=True):
            assert one.keys() == other.keys()
            assert one["familiar"] == pytest.approx(other["familiar"], abs=1e-6)
            assert one.get("remark") == other.get("remark")
        assert ["error" in line for line in theirs] == [refuse, False]
        visit.close()
        served.end()


@pytest.mark.parametrize("red", [float("nan"), -300.0, 600.0])
def test_numbers_that_cannot_be_right_are_no_answer(
    red: float, browser: Any, make_artifact: Callable[..., Path], photographs: list[Path], tmp_path: Path
) -> None:
    model = onnx.load_from_string(mean_red_graph())
    (mean,) = [node for node in model.graph.node if node.op_type == "Gather"]
    mean.output[0] = "unused"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32([red]), "red"))
    artifact = make_artifact("one", model.SerializeToString())
    with pytest.raises(DataError):
        load(artifact).predict(photographs[0])
    write_web([artifact], tmp_path / "site", tell=silent)
    served = Files(tmp_path / "site")
    visit = Visit(browser, served.address)
    (line,) = visit.ask(photographs[:1])
    assert "cannot be right" in line["error"]
    assert "label" not in line
    visit.close()
    served.end()


def test_labels_that_look_like_numbers_keep_their_order(
    browser: Any, make_artifact: Callable[..., Path], photographs: list[Path], tmp_path: Path
) -> None:
    artifact = make_artifact("grades", labels=("10", "2"))
    write_web([artifact], tmp_path / "site", tell=silent)
    served = Files(tmp_path / "site")
    visit = Visit(browser, served.address)
    (line,) = visit.ask(photographs[5:6])
    ours = load(artifact).predict(photographs[5])
    assert list(line["probabilities"]) == ["10", "2"]
    assert line["probability"] == pytest.approx(ours.probability, abs=1e-6)
    visit.close()
    served.end()


def test_an_answer_stays_when_another_precision_cannot_be_loaded(
    browser: Any, make_artifact: Callable[..., Path], photographs: list[Path], tmp_path: Path
) -> None:
    model = onnx.load_from_string(mean_red_graph())
    model.doc_string = "larger"
    one, other = make_artifact("one"), make_artifact("other", model.SerializeToString(), precision="int8")
    write_web([Path(f"eyes={one}"), Path(f"eyes={other}")], tmp_path / "site", tell=silent)
    larger = load(other).artifact.manifest.graphs["model"].sha256[:16]
    (tmp_path / f"site/graphs/{larger}.onnx").unlink()
    served = Files(tmp_path / "site")
    visit = Visit(browser, served.address)
    for _ in range(2):
        (line,) = visit.ask(photographs[:1])
        assert "label" in line
        assert visit.page.locator("article .error").count() == 0
    visit.close()
    served.end()


def test_two_sites_and_other_pages_of_one_server_do_not_meet(
    browser: Any, make_artifact: Callable[..., Path], photographs: list[Path], tmp_path: Path
) -> None:
    first, second = make_artifact("first"), make_artifact("second", threshold=0.9)
    write_web([first], tmp_path / "root", tell=silent)
    write_web([second], tmp_path / "eyes", tell=silent)
    shutil.move(tmp_path / "eyes", tmp_path / "root/eyes")
    (tmp_path / "root/wiki").mkdir()
    (tmp_path / "root/wiki/index.html").write_text("<title>the wiki</title>")
    served = Files(tmp_path / "root")
    visit = Visit(browser, served.address)
    visit.wait_until_offline()
    visit.page.goto(f"{served.address}wiki/")
    assert visit.page.title() == "the wiki"
    visit.page.goto(f"{served.address}eyes/")
    visit.wait_until_offline()
    (line,) = visit.ask(photographs[:1])
    assert line["threshold"] == 0.9
    visit.page.goto(served.address)
    (line,) = visit.ask(photographs[:1])
    assert line["threshold"] == 0.5
    visit.close()
    served.end()


def test_a_newer_version_is_offered_and_taken_whole(
    browser: Any, make_artifact: Callable[..., Path], photographs: list[Path], tmp_path: Path
) -> None:
    write_web([make_artifact("old")], tmp_path / "site", tell=silent)
    served = Files(tmp_path / "site")
    visit = Visit(browser, served.address)
    visit.wait_until_offline()
    write_web([make_artifact("new", threshold=0.9)], tmp_path / "site", overwrite=True, tell=silent)
    visit.page.goto(served.address)
    (line,) = visit.ask(photographs[:1])
    assert line["threshold"] == 0.5, "until it is taken, all is of the old version"
    visit.wait("#update:visible")
    with visit.page.expect_navigation():
        visit.page.click("#update")
    visit.wait_until_offline()
    (line,) = visit.ask(photographs[:1])
    assert line["threshold"] == 0.9
    assert visit.faults == []
    visit.close()
    served.end()


def test_words_stand_in_one_file_and_none_is_missing() -> None:
    page = Path(__file__).parents[2] / "src/leanmed"
    words = json.loads((page / "web/page/words/en.json").read_text())
    code = "".join(path.read_text() for path in [*page.glob("web/page/*.js"), *page.glob("tasks/*/answer.js")])
    shown = set(re.findall(r'data-word="(\w+)"', (page / "web/page/index.html").read_text()))
    used = shown | set(re.findall(r"\bwords\.(\w+)", code)) - {"includes", "js", "code", "refused"}
    told = set(re.findall(r'new (?:Broken|Told)\((?:error \?\? )?"(\w+)"', code))
    assert used | told == words.keys() - {"language", "refused", "loading"} | {"loading"}
    refused = set(re.findall(r'new Refused\("(\w+)"', code)) | {"empty", "elsewhere"}  # which `formOf` gives
    assert refused == words["refused"].keys()


def test_waiting_for_answers_can_be_seen(visit: Visit, photographs: list[Path]) -> None:
    visit.choose(photographs)
    visit.wait("article")
    assert visit.page.locator("article").count() == len(photographs)
    visit.wait(ANSWERED, len(photographs))
    visit.page.click("#clear")
    assert visit.page.locator("article").count() == 0

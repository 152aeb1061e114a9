"""The page of `leanmed web` in a real Chromium: first answers, bytes, and how far its answers lie from Python's.

    python scripts/measure_page.py NAME=FP32,INT8,INT4=IMAGES... --out FILE

NAME=ARTIFACT,ARTIFACT...=FOLDER: a model, its artifacts, and a folder of images to ask about. Of each model the first
images are written in the forms that people have (turned by EXIF, 12 megapixels, grey, alpha, progressive, ...), and all
go through Python, `leanmed serve` and the page, and through Python once more without ONNX Runtime's optimisations.
Chromium and the server of files share the machine.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import onnxruntime
import typer
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from agreement import apart, post
from chromium import Files, Visit, chromium
from image_set import write_image_set
from leanmed.benchmark.benchmark import machine
from leanmed.files import write_json
from leanmed.reading.folders import list_folder
from leanmed.runtime.batch import answer
from leanmed.runtime.lines import line_of
from leanmed.runtime.predictor import Predictor, load
from leanmed.web.runtime import VERSION
from leanmed.web.site import write_web
from server_process import serving

PICTURES = 2  # of which all forms are made; the set has 20 images then


def parse(text: str) -> tuple[str, list[Path], Path]:
    """NAME=ARTIFACT,ARTIFACT=FOLDER."""
    name, artifacts, folder = text.split("=")
    return name, [Path(path) for path in artifacts.split(",")], Path(folder)


def some_of(folder: Path, count: int) -> list[Path]:
    """Images at even distances in a folder's list."""
    found = list_folder(folder).images
    return [found[len(found) * k // count] for k in range(count)]


def form_of(file: Path) -> str:
    """Which form an image of the set has."""
    return file.name.partition("-")[2] or file.name


def first_answer(browser: Any, artifact: Path, image: Path, folder: Path) -> dict[str, Any]:
    """Of a page that was never opened before: seconds to the first answer, and bytes; then again without a network."""
    write_web([artifact], folder, tell=lambda line: None)
    served = Files(folder)
    started = time.perf_counter()
    visit = Visit(browser, served.address)
    visit.ask([image])
    seconds = time.perf_counter() - started
    sent = served.sent
    visit.wait_until_offline()
    whole = served.sent
    served.end()
    started = time.perf_counter()
    visit.page.goto(served.address)
    visit.ask([image])
    again = time.perf_counter() - started
    faults = visit.faults
    visit.close()
    return {
        "seconds": round(seconds, 2),
        "bytes_until_the_answer": sent,
        "bytes_with_what_is_kept_for_later": whole,
        "seconds_without_a_network": round(again, 2),
        "faults": faults,
    }


def largest(apart_by_form: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The largest distance of each form."""
    return {form: float(f"{max(values):.2g}") for form, values in sorted(apart_by_form.items())}


def compare(
    predictor: Predictor, files: Sequence[Path], lines: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """How far some lines lie from Python's, by form."""
    found = defaultdict(list)
    for file, line, own in zip(files, lines, ours, strict=True):
        assert line.get("artifact") == predictor.artifact.sha256, (file.name, line)
        found[form_of(file)].append(apart(own, line))
    return largest(found)


def unoptimised(predictor: Predictor, files: Sequence[Path]) -> list[dict[str, Any]]:
    """Python's lines for some images by ONNX Runtime as it runs graphs without changing them first.

    How far these lie from the usual ones is what the order of additions alone does to an answer.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    graphs, names = predictor.artifact.graphs, predictor.kind.GRAPHS
    sessions = {name: onnxruntime.InferenceSession(graphs[name], options) for name in names}
    lines = []
    for file in files:
        frame = predictor.frame(file)
        outputs = predictor.kind_of_task.outputs(
            frame.pixels, lambda name, feeds: sessions[name].run(list(names[name]), dict(feeds))
        )
        found = predictor.kind.decide(outputs, predictor.manifest)
        found = found.placed(frame.points) if frame.points else found
        lines.append(line_of(str(file), found, artifact=predictor.artifact.sha256))
    return lines


def main(
    models: Annotated[list[str], typer.Argument(help="NAME=ARTIFACT,ARTIFACT...=FOLDER each.")],
    out: Annotated[Path, typer.Option(help="The JSON file to write.")],
) -> None:
    """Measure, and write it all."""
    rows, first = [], {}
    with TemporaryDirectory() as scratch, chromium() as browser:
        work = Path(scratch)
        for name, artifacts, folder in map(parse, models):
            images = some_of(folder, PICTURES)
            first[name] = first_answer(browser, artifacts[0], images[0], work / f"{name}-first")
            files = write_image_set([Image.open(image).convert("RGB") for image in images], work / f"{name}-images")
            named = [Path(f"{path.name}={path}") for path in artifacts]
            write_web(named, work / f"{name}-site", tell=lambda line: None)
            served = Files(work / f"{name}-site")
            with serving(named, work, "--seconds", "120") as port:
                visit = Visit(browser, served.address)
                for path in artifacts:
                    predictor = load(path)
                    ours = [answer(predictor, file) for file in files]
                    page = visit.ask(files, path.name)
                    asked = [post(port, path.name, file.read_bytes()) for file in files]
                    rows.append(
                        {
                            "model": name,
                            "precision": predictor.manifest.precision,
                            "images": len(files),
                            "page": compare(predictor, files, page, ours),
                            "server": compare(predictor, files, asked, ours),
                            "unoptimised": compare(predictor, files, unoptimised(predictor, files), ours),
                            "page_seconds": round(sorted(line["seconds"] for line in page)[len(page) // 2], 3),
                            "python_seconds": round(sorted(line["seconds"] for line in ours)[len(ours) // 2], 3),
                        }
                    )
                    print(rows[-1], flush=True)
                visit.close()
            served.end()
            shutil.rmtree(work / f"{name}-images")
    write_json(
        out,
        {
            "command": shlex.join(["python", "scripts/measure_page.py", *sys.argv[1:]]),
            "machine": machine(),
            "chromium": browser.version,
            "onnxruntime_web": VERSION,
            "apart": "the largest difference to Python's answer for the same file: of probabilities, of scores and "
            "places of boxes in units of their size, or the mean one of a mask's confidence beyond one level of 255",
            "first_answer": first,
            "same_answers": rows,
        },
    )


if __name__ == "__main__":
    typer.run(main)

"""The command line: one thin command per verb. Heavy imports happen inside the command that needs them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import leanmed
from leanmed.cluster import is_engine
from leanmed.console import (
    Data,
    Engine,
    Out,
    Overwrite,
    Resume,
    Set,
    Splitting,
    Strict,
    echo_evaluation,
    paragraph,
    progress_bar,
    stages,
    stoppable,
    typed,
)
from leanmed.cores import available_cores
from leanmed.errors import DataError, LeanmedError
from leanmed.extras import REPORTING, TRAINING, needs

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="From a folder of labelled medical images to one small, tested model file. "
    "Research use only: not a medical device.",
)

EXPLAIN_MOST, EXPLAIN_MASKS = 20, 196  # images, and random masks of each: on one core, a minute or two
RECIPE = (
    "A shipped recipe's name (anemia, nodules, nodules-paper, prostate, retina, nerves, nerves-masks, folder) or a "
    "YAML file."
)


def main() -> None:
    """Run the command line; what goes wrong is told in one paragraph, unless `--debug`."""
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        app(prog_name="leanmed")
    except (LeanmedError, OSError) as error:
        if debug:
            raise
        typer.echo(f"leanmed: {paragraph(error)}", err=True)
        sys.exit(2)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if version:
        typer.echo(f"leanmed {leanmed.__version__}")
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where to write.")] = Path("leanmed-demo"),
    nodules: Annotated[
        bool, typer.Option("--nodules", help="Show nodules in CT instead of anemia in photographs.")
    ] = False,
    prostate: Annotated[
        bool,
        typer.Option(
            "--prostate", help="Show the prostate in MR of several sites: a small student that learns from a teacher."
        ),
    ] = False,
    nerves: Annotated[
        bool, typer.Option("--nerves", help="Show nerves in ultrasound that a person, or the model itself, points at.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Every step on made data, and a report to open: under 3 minutes on two cores.

    Example: `leanmed demo`
    """
    needs("demo", "train", *TRAINING)
    from leanmed.demo import EYELIDS, NERVES, NODULES, PROSTATE, run_demo

    asked = {"--nodules": (nodules, NODULES), "--prostate": (prostate, PROSTATE), "--nerves": (nerves, NERVES)}
    chosen = [demo for wanted, demo in asked.values() if wanted] or [EYELIDS]
    if len(chosen) > 1:
        raise DataError(f"expected one of {', '.join(asked)}, got {len(chosen)} of them; leave the others out")
    if nerves:
        needs("demo --nerves", "sam", "transformers")
    run_demo(out, chosen[0], overwrite=overwrite, tell=typer.echo)


@app.command()
def audit(
    data: Annotated[str | None, typer.Argument(metavar="[DIR]", help="The data set's folder.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the findings.")] = None,
    dataset: Annotated[
        str,
        typer.Option(
            help="How the folder is laid out: folder (one sub-folder per class, or labels.csv), cp-anemic, "
            "luna16-slices...; or images (any images, without labels)."
        ),
    ] = "folder",
    split: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="TRAIN TEST",
            help="Check this split instead of DIR: two folders, or CSV files with a column `image`.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: one per core.")] = 0,
    engine: Engine = None,
    strict: Strict = False,
    overwrite: Overwrite = False,
) -> None:
    """Find copies of photographs, verified on pixels, and labels that contradict each other.

    Writes pairs.csv, groups.csv, report.json and report.html; a stopped audit goes on where it was.
    With `--split`, says which test images have a copy or a sibling in training, and writes pairs.csv, split.json,
    test.csv and report.html to `--out`, which `leanmed evaluate --split-audit` takes. The exit status is 1
    when copies carry different labels, or masks that contradict each other, or a split leaks.

    With `--engine ray` and `--dataset images`, DIR may be a URL such as s3://bucket/photos.

    Example: `leanmed audit my-images --out audit`, or `leanmed audit --split TRAIN TEST --out split-audit`
    """
    needs("audit", "report", "cv2", "faiss", "jinja2")
    from leanmed.audit.command import audit_folder, audit_split
    from leanmed.remote import is_url, place_of

    _check_urls(engine, data or "")
    if is_url(str(out)):
        raise DataError(f"expected --out to be a folder of this machine, got {out}; copy it there when it is whole")
    if is_engine(engine) and split:
        raise DataError("expected --engine with DIR, got --split beside it; leave out the one or the other")
    with stoppable(), stages() as progress:
        if split:
            lines, sound = audit_split(*split, out=out, workers=workers, overwrite=overwrite, progress=progress)
        elif data and out:
            lines, sound = audit_folder(
                place_of(data, "audit"),
                dataset,
                out,
                workers=workers,
                engine=engine,
                strict=strict,
                overwrite=overwrite,
                progress=progress,
            )
        else:
            raise DataError("expected DIR and --out, or --split TRAIN TEST; see leanmed audit --help")
    for line in lines:
        typer.echo(line)
    if not sound:
        raise typer.Exit(1)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help=RECIPE, show_default=False)],
    data: Data,
    out: Out,
    settings: Set = [],  # noqa: B006 (typer reads it, nobody changes it)
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="fast|best",
            help="Settings of the recipe that belong together; --set wins over them. For the recipe folder, fast: one "
            "held-out part, 128 pixels, at most 20 epochs, which takes minutes on two cores; best: five folds, 256 "
            "pixels, stronger augmentation, at most 40 epochs, which takes many times as long. `leanmed recipe "
            "folder` prints them.",
        ),
    ] = None,
    protocol: Splitting.Protocol = None,
    groups: Splitting.Groups = None,
    conflicts: Splitting.Conflicts = None,
    strict: Strict = False,
    teacher: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="A finished run on the same data and split, from whose models this one learns too (distillation); "
            "the recipe's section `distillation` says how.",
        ),
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    accelerator: Annotated[str, typer.Option(help="Lightning's accelerator: auto, cpu, gpu, mps...")] = "auto",
    devices: Annotated[
        int, typer.Option(min=1, help="Devices per machine; for more than one, start with torchrun.")
    ] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="How many machines.")] = 1,
    strategy: Annotated[str, typer.Option(help="Lightning's strategy: auto, ddp...")] = "auto",
) -> None:
    """Train every fold of a recipe into one run folder.

    Example: `leanmed train folder --data my-images --out run --set model.side=128`
    """
    needs("train", "train", *TRAINING)
    from leanmed.api import train
    from leanmed.training.machines import Machines

    split = {"protocol": protocol, "groups": groups, "conflicts": conflicts}
    asked = [*settings, *(f"split.{k}={v}" for k, v in split.items() if v), *["data.strict=true"] * strict]
    machines = Machines(accelerator, devices, nodes, strategy)
    with stoppable("--resume"):
        train(
            data,
            out,
            recipe,
            preset=preset,
            settings=asked,
            teacher=teacher,
            resume=resume,
            overwrite=overwrite,
            machines=machines,
            tell=typer.echo,
        )


@app.command()
def watch(
    run: Annotated[
        Path, typer.Argument(help="A run folder, which a training writes or will write.", show_default=False)
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of this machine; 0: any that is free.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> None:
    """Show how a training goes, on a page of this machine that loads itself anew: epochs, losses, scores, time left.

    It may be started before the training, beside it, or after it, and needs no torch. Ctrl-C ends it, and not the
    training. Only this machine can open the page.

    Example: `leanmed watch run`
    """
    needs("watch", "report", "jinja2", "matplotlib")
    import webbrowser

    from leanmed.watch import watch

    watch(run, port, show=webbrowser.open if browser else None, tell=typer.echo)


@app.command()
def web(
    artifacts: Annotated[
        list[Path],
        typer.Argument(
            metavar="[NAME=]ARTIFACT...",
            help="Artifact folders. Those of one NAME (without one: the name in their cards) are one model in several "
            "precisions, of which the page measures once which answers faster on the device, and keeps it.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="The folder to write the site to; with --single-file, the file.", show_default=False)
    ],
    single_file: Annotated[
        bool,
        typer.Option("--single-file", help="Write one HTML file, which opens by a double click, from a USB stick too."),
    ] = False,
    runtime: Annotated[
        Path | None,
        typer.Option(
            help="A folder with the files of ONNX Runtime Web, for an installation without them. If it does not exist, "
            "they are fetched from npm into it.",
            show_default=False,
        ),
    ] = None,
    refuse_unfamiliar: Annotated[
        bool, typer.Option("--refuse-unfamiliar", help="Do not answer for images unlike the training images.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older site or page.")] = False,
) -> None:
    """Write a web page that answers in the browser: no server, no network once it is there, no torch.

    The site's files can lie on any web server. Over https a telephone keeps the page, and it then works without a
    network. Images stay on the device: the page's own policy forbids sending anything elsewhere.

    Example: `leanmed web artifact --out site`, or `leanmed web artifact --single-file --out eyes.html`
    """
    from leanmed.web.site import write_web

    written = write_web(
        artifacts,
        out,
        single=single_file,
        runtime=runtime,
        overwrite=overwrite,
        refuse_unfamiliar=refuse_unfamiliar,
        tell=typer.echo,
    )
    typer.echo(f"{out}: {written / 1e6:.1f} MB   Research use only: not a medical device.")
    if not single_file:
        typer.echo(f"to try it: python3 -m http.server --directory {out}, then open http://localhost:8000")


@app.command()
def serve(
    artifacts: Annotated[
        list[Path],
        typer.Argument(
            metavar="[NAME=]ARTIFACT...",
            help="Artifact folders; clients choose by NAME, or else by the folder's own name.",
            show_default=False,
        ),
    ],
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen on. At 127.0.0.1 this computer alone can reach the server; at any other, other "
            "computers can, and must show the token."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(help="A file with the secret that every client must show: 16 characters or more in one line."),
    ] = None,
    allow_host: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            help="A name by which clients call the server, such as ward-pc.local; repeatable. Requests for other names "
            "are refused.",
        ),
    ] = [],  # noqa: B006
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that answer, one image at a time; 0: one per core.")
    ] = 0,
    waiting: Annotated[
        int, typer.Option(min=0, help="Requests that may wait for a process; more are told to come again.")
    ] = 16,
    seconds: Annotated[float, typer.Option(min=1, help="For an image to arrive, and for an answer to be made.")] = 30.0,
    max_megabytes: Annotated[int, typer.Option(min=1, help="Refuse larger files.")] = 64,
    max_megapixels: Annotated[int, typer.Option(min=1, help="Refuse larger images.")] = 50,
    refuse_unfamiliar: Annotated[
        bool, typer.Option("--refuse-unfamiliar", help="Do not answer for images unlike the training images.")
    ] = False,
) -> None:
    """Answer over HTTP: a page with a form, and an interface for programs. No torch.

    `POST /v1/predict` takes an image, as the field `image` of a form or as the body itself, and gives the line that
    `leanmed predict` writes, or the image with the answer on it. Images stay in memory and are not stored; the log
    names no file. /openapi.json describes the interface, /healthz tells whether the server can answer, and /metrics is
    for Prometheus. Ctrl-C answers what was begun, and ends.

    Example: `leanmed serve artifact`, then open http://127.0.0.1:8000
    """
    needs("serve", "serve", "starlette", "uvicorn", "multipart", "prometheus_client")
    from leanmed.serving.command import Settings, read_token
    from leanmed.serving.command import serve as listen

    settings = Settings(
        host=host,
        port=port,
        names=allow_host,
        token=read_token(token_file) if token_file else "",
        workers=workers or available_cores(),
        waiting=waiting,
        seconds=seconds,
        max_bytes=max_megabytes * 10**6,
        max_pixels=max_megapixels * 10**6,
        refuse_unfamiliar=refuse_unfamiliar,
    )
    listen(artifacts, settings, typer.echo)


@app.command()
def dicom_node(
    config: Annotated[
        Path, typer.Option(metavar="FILE", help="The node's configuration in YAML: see docs/dicom-node.md.")
    ],
    artifacts: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[NAME=]ARTIFACT...",
            help="Artifact folders; rules of the configuration name them by NAME, or else by the folder's own name.",
            show_default=False,
        ),
    ] = None,
    status: Annotated[
        bool, typer.Option("--status", help="Say which series the store holds and what became of them, and end.")
    ] = False,
    retry_refused: Annotated[
        bool, typer.Option("--retry-refused", help="Answer series that were refused once more, after a mended cause.")
    ] = False,
) -> None:
    """Answer a PACS: series come in by C-STORE or DICOMweb, answers go out as SEG, SR and secondary captures. No torch.

    The configuration says which artifact answers which series, who may send, and where answers go. What is acknowledged
    is on disk; a destination that is down is tried again until it takes the answers. The log names no patient. Ctrl-C
    ends the node, and the next start goes on where it stood.

    Example: `leanmed dicom-node lungs=artifact --config node.yaml`
    """
    needs("dicom-node", "dicom-node", "pynetdicom", "highdicom", "starlette", "uvicorn", "python_multipart")
    from leanmed.dicom_node.command import serve as run_node
    from leanmed.dicom_node.command import status_lines

    if status:
        for line in status_lines(config):
            typer.echo(line)
        return
    if not artifacts:
        raise DataError("expected artifacts, which answer, got none; name their folders, such as lungs=artifact")
    run_node(artifacts, config, retry_refused=retry_refused, tell=typer.echo)


@app.command()
def recipe(
    name: Annotated[
        str | None, typer.Argument(help="A shipped recipe, to be printed as it is written.", show_default=False)
    ] = None,
) -> None:
    """List the shipped recipes and every key of a recipe with its default, range and meaning; or print one recipe.

    Example: `leanmed recipe`, or `leanmed recipe retina > mine.yaml` to change it and train by it
    """
    from leanmed.recipe.help import describe_recipe
    from leanmed.recipe.recipe import shipped_recipes, shipped_text
    from leanmed.tasks.recipes import KINDS

    if name is not None:
        typer.echo(shipped_text(name), nl=False)
        return
    typer.echo(f"shipped recipes: {', '.join(shipped_recipes())}\n\n{describe_recipe(KINDS)}")


@app.command()
def evaluate(
    subject: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|ARTIFACT|ANSWERS",
            help="A run folder, an artifact folder, or a file of answers in JSON lines.",
            show_default=False,
        ),
    ],
    data: Data,
    out: Out,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="How the data folder is laid out. An artifact's data are read as its recipe says if this is not "
            "given, and those of a file of answers as `folder`."
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="LABEL,LABEL...",
            help="For a file of answers: the labels in order; of two labels, the positive one is the last.",
        ),
    ] = None,
    settings: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="For a file of answers: a setting of how the data are read or judged, such as "
            "--set 'data.values={gland: [1, 2], tumour: [3]}'.",
        ),
    ] = [],  # noqa: B006
    also: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=DIR",
            help="For an artifact or a file of answers: another data set, such as that of another hospital, whose "
            "figures stand beside those of --data with the change between them; repeatable. NAME may be left out, and "
            "is then the folder's. It is laid out as --data is.",
        ),
    ] = [],  # noqa: B006
    prevalence: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="For two labels: give the predictive values at this share of positive images, such as 0.05, beside "
            "those at the data set's own.",
        ),
    ] = None,
    scans: Annotated[bool, typer.Option("--scans", help="Judge an artifact on LUNA16's whole scans: its CPM.")] = False,
    oracle: Annotated[
        bool,
        typer.Option(
            "--oracle",
            help="For a run that takes points: answer its test images anew, each with a point from its true mask. The "
            "report says so; the figures are not those of the model by itself.",
        ),
    ] = False,
    split_audit: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="For an artifact or a file of answers: what `leanmed audit --split TRAIN TEST --out DIR` wrote. The "
            "test images that leak from training are left out, and the report has the figures with and without them.",
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Say how good a run, an artifact or a file of answers is: report.html, report.json, and each image in answers.csv.

    Of labels, the page shows the surest images of each cell of the confusion matrix, and each cell is also a picture of
    its own, montage-1.jpg and so on.

    A run is judged on each fold's test part; an artifact on images that share no group (patient, photograph)
    with one it was trained or selected on. A file of answers holds a line of JSON for each image, as `leanmed predict`
    writes them or as you write them for any other model: `input` with `label` and `probabilities`, or with `boxes` and
    `scores`.

    An artifact's report shows the figures that it carries beside those of `--data`, and those of each `--also` too.
    Images of one label only are judged by what they can tell.

    Example: `leanmed evaluate run --data my-images --out report`, or
    `leanmed evaluate artifact --data new-patients --also north=north-hospital --prevalence 0.05 --out report`
    """
    needs("evaluate", "report", *REPORTING)
    from leanmed.api import oracle_answers
    from leanmed.evaluation.command import Asked
    from leanmed.evaluation.command import evaluate as judge

    asked = Asked(
        dataset=dataset,
        labels=tuple(labels.split(",")) if labels else None,
        settings=settings,
        also=also,
        prevalence=prevalence,
        scans=scans,
        oracle=oracle_answers if oracle else None,
        split_audit=split_audit,
    )
    with stages() as progress:
        report, written = judge(subject, data, out, asked, overwrite=overwrite, command=typed(), progress=progress)
    echo_evaluation(report, *written)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A finished run folder.", show_default=False)],
    out: Out,
    fold: Annotated[
        int | None, typer.Option(help="Export the model of one fold, from 0 on, as it is: nothing is trained.")
    ] = None,
    ensemble: Annotated[
        bool,
        typer.Option(
            "--ensemble",
            help="Export the models of all folds in one file, which gives the mean of their answers. Of five folds, it "
            "is five times as large and slow.",
        ),
    ] = False,
    threshold: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|RULE",
            help="Answer positive from this probability or score on, such as 0.3; or from one chosen on validation "
            "images by a rule: f1, youden, or sensitivity:0.95, which finds 95 % of their positive images or objects. "
            "If not given, the rule of the recipe applies.",
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The data set's folder, if it has moved since training.")] = None,
    teacher: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Its teacher's run, if that has moved since training.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write an artifact: one ONNX graph from decoded pixels to the answer, with its card.

    The model is trained on all images of the run, which takes about as long as one fold. That is done once; when it is
    stopped, repeat the command, and it goes on. Its figures are the cross-validated ones of the folds, since no image
    is left to test it. `--fold` exports the model of one fold at once, with the figures of its own test part.

    Example: `leanmed export run --out artifact --threshold sensitivity:0.95`
    """
    needs("export", "train", *TRAINING)
    from leanmed.api import export

    made: dict[str, Any] = {"fold": fold, "ensemble": ensemble, "threshold": threshold, "data": data}
    with stages() as progress:
        artifact = export(run, out, **made, teacher=teacher, overwrite=overwrite, tell=typer.echo, progress=progress)
    typer.echo(f"wrote {out}: {artifact.manifest.bytes / 1e6:.2f} MB, artifact {artifact.sha256[:12]}")
    typer.echo(f"now: leanmed predict {out} IMAGES --out answers.jsonl, and read {out / 'CARD.md'}")


@app.command()
def recalibrate(
    artifact: Annotated[Path, typer.Argument(help="An artifact folder, in any precision.", show_default=False)],
    data: Data,
    out: Out,
    overwrite: Overwrite = False,
    threshold: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|RULE",
            help="Of two labels: answer positive from this probability on, such as 0.3; or from one chosen on the new "
            "images by a rule: f1, youden or sensitivity:0.95. If not given, the rule by which the artifact's own was "
            "chosen.",
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="How the data folder is laid out. If not given, as the artifact's recipe says.")
    ] = None,
) -> None:
    """Fit the probabilities and the threshold of an artifact to labelled images of the place where it is used.

    The network stays as it is; its probabilities get a new slope and intercept, or with few images an intercept alone,
    inside the graph. It takes images of 20 patients or photographs at least, that the model has not seen. What it gains
    is measured on these images, each answered with what the others give, printed, and kept in leanmed.json and CARD.md.

    Example: `leanmed recalibrate artifact --data north-hospital --out artifact-north`
    """
    needs("recalibrate", "train", *REPORTING, "onnx")
    from leanmed.audit.grouping import AUDIT
    from leanmed.exporting.recalibrate import recalibrate
    from leanmed.recipe.recipe import threshold_of

    wanted = threshold_of(threshold) if threshold else None
    with stages() as progress:
        found = recalibrate(
            artifact,
            data,
            out,
            threshold=wanted,
            dataset=dataset,
            overwrite=overwrite,
            cache=out.parent / AUDIT,
            progress=progress,
        )
    for line in found.lines():
        typer.echo(line)
    typer.echo(f"Research use only: not a medical device.\nwrote {out}: artifact {found.artifact.sha256[:12]}")


@app.command()
def card(
    artifact: Annotated[Path, typer.Argument(help="An artifact folder.", show_default=False)],
    settings: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="KEY=TEXT", help="Fill in one item; repeatable. An empty text leaves it open again."
        ),
    ] = [],  # noqa: B006
) -> None:
    """Show and fill in those items of an artifact's card that a training cannot know.

    The card is the file CARD.md in the artifact folder. It may also be written with any editor: predictions do not
    depend on it.

    Example: `leanmed card artifact --set "patients=Children of 6 to 59 months, seen at ..."`
    """
    from leanmed.runtime.artifact import CARD, read_artifact
    from leanmed.runtime.card import fill_card

    read_artifact(artifact)
    for item in fill_card(artifact, settings):
        typer.echo(f"{item.key:10} {item.text or 'open: ' + item.question}")
    typer.echo(f"{'wrote' if settings else 'see'} {artifact / CARD}")


@app.command()
def predict(
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="An artifact folder.", show_default=False)],
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Files, folders, quoted globs, CT scans.", show_default=False),
    ],
    out: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="The file to write: JSON lines, or a table if its name ends in .csv; `-` writes JSON lines to "
            "standard output.",
            show_default=False,
        ),
    ],
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Decide by this threshold instead of the artifact's own."),
    ] = None,
    refuse_unfamiliar: Annotated[
        bool,
        typer.Option(
            "--refuse-unfamiliar",
            help="Do not answer for images that look unlike those that the model was trained on; they are listed with "
            "those that cannot be read. If not given, they are answered with a remark.",
        ),
    ] = False,
    draw: Annotated[
        str | None, typer.Option(metavar="DIR", help="Save each image with its answer drawn on it, as a PNG.")
    ] = None,
    explain: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Save each image, and beside it what speaks for and against the score of a label, or of the best box, "
            "as a PNG. It takes about 200 more predictions an image.",
        ),
    ] = None,
    explain_most: Annotated[
        int, typer.Option(min=1, help="With --explain: explain the first so many of all images and no more.")
    ] = EXPLAIN_MOST,
    explain_masks: Annotated[
        int,
        typer.Option(
            min=0,
            help="With --explain: how many times half of an image is covered at random. 0: one part after the other is "
            "covered, which takes a quarter of the time and finds the place less often (docs/explanations.md).",
        ),
    ] = EXPLAIN_MASKS,
    point: Annotated[
        list[str],
        typer.Option(
            metavar="X,Y",
            help="For an artifact that takes prompts and one image: a point in it, in pixels from its top left corner; "
            "repeatable.",
        ),
    ] = [],  # noqa: B006
    label: Annotated[
        list[str],
        typer.Option(
            metavar="1|0",
            help="One for each --point in order: 1 if it is on what is meant, 0 if it is beside it. If not given, all "
            "are 1.",
        ),
    ] = [],  # noqa: B006
    box: Annotated[
        str | None, typer.Option(metavar="X1,Y1,X2,Y2", help="As --point: a box around what is meant.")
    ] = None,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Predict the I-th of N equal parts, into OUT-I-of-N.")
    ] = "1/1",
    resume: Resume = False,
    overwrite: Overwrite = False,
    workers: Annotated[int, typer.Option(min=0, help="Images or scans at a time; 0: one per core.")] = 0,
    engine: Engine = None,
    max_megapixels: Annotated[int, typer.Option(min=1, help="Refuse larger images.")] = 50,
    max_megabytes: Annotated[
        int | None,
        typer.Option(min=1, help="Refuse larger files; 256 for images and 4096 for scans if not given."),
    ] = None,
) -> None:
    """Answer for many images: one JSON line or table row each, without torch.

    With two labels, `probability` is that of the positive label, which is the second one, whichever is the answer.

    An artifact for CT slices also searches whole scans (.mhd, NIfTI, folders of DICOM): it lists candidates, and saves
    a picture of the best ones in OUT-montages.
    An artifact that takes prompts answers for what `--point` and `--box` mean in one image, or without them for what it
    finds by itself.
    `--explain` shows what the model's score depends on, and not what is ill.
    Images that cannot be read are listed at the end, and the exit status is then 1.
    `familiar` says how much an image looks like those that the model was trained on, from 0 to 1: of such images that
    the model had not seen, the share that look at least as unlike them.

    With `--engine ray`, ARTIFACT, INPUT, `--out` and `--draw` may be URLs such as s3://bucket/photos.

    Example: `leanmed predict artifact photos/ "more/*.jpg" --out answers.jsonl`

    Explained: `leanmed predict artifact photos/ --out answers.jsonl --explain why`
    """
    from leanmed.prompts import Prompts
    from leanmed.reading.greys import range_remarks
    from leanmed.reading.images import Limits, find_places
    from leanmed.remote import folder_at_hand, place_of
    from leanmed.runtime.artifact import MANIFEST
    from leanmed.runtime.batch import Explanations, Pictures, Shard, predict_file, predict_lines

    _check_urls(engine, artifact, *inputs, out, draw or "", str(explain))
    prompts = Prompts.parse(point, label, box) if point or label or box is not None else None
    caps = {} if max_megabytes is None else dict.fromkeys(("max_bytes", "max_scan_bytes"), max_megabytes * 2**20)
    limits = Limits(max_pixels=max_megapixels * 10**6, **caps)
    with folder_at_hand(place_of(artifact, "predict"), MANIFEST) as folder:
        predictor = leanmed.load(folder, limits=limits, threshold=threshold, refuse_unfamiliar=refuse_unfamiliar)
    files, part = find_places(inputs, scans=predictor.takes_scans), Shard.parse(shard)
    for note in files.notes:
        typer.echo(note, err=True)
    if is_engine(engine) and (prompts or explain or part.count > 1 or out == "-"):
        raise DataError(
            "expected --engine with many images and a file, got --point, --box, --explain, --shard or --out - beside "
            "it; leave out the one or the other"
        )
    if prompts is not None:
        _check_points(predictor, files, prompts, resume, explain)  # before anything is written
    drawings = None if draw is None else place_of(draw, "predict")
    on_disk = [file for file in files if isinstance(file, Path)]
    explanations = Explanations.of(predictor, on_disk, explain, explain_most, explain_masks) if explain else None
    for line in _explaining(explanations, files, part.of(files), resume) if explanations else ():
        typer.echo(line, err=True)
    common: dict[str, Any] = {"prompts": prompts, "explanations": explanations}
    common["workers"] = workers or available_cores()
    if out == "-":
        if resume:
            raise DataError(
                "expected --resume with a file, got --out -, which leaves nothing to go on from; name a file"
            )
        pictures = Pictures(Path(draw), images=True) if draw else None
        found = predict_lines(predictor, part.of(files), sys.stdout, pictures=pictures, **common)
    elif engine:
        from leanmed.runtime.distributed import predict_distributed

        with stoppable("--resume"), progress_bar("images", len(files)) as step:
            found = predict_distributed(
                predictor,
                place_of(artifact),
                files,
                place_of(out),
                resume=resume,
                overwrite=overwrite,
                workers=workers,
                draw=drawings,
                progress=step,
            )
    else:
        with stoppable("--resume"), progress_bar("images", len(part.of(files))) as step:
            found = predict_file(
                predictor,
                files,
                Path(out),
                shard=part,
                resume=resume,
                overwrite=overwrite,
                draw=Path(draw) if draw else None,
                progress=step,
                **common,
            )
    _echo_answered(found, [] if predictor.takes_scans else range_remarks(part.of(on_disk), limits))
    if found.failed:
        raise typer.Exit(1)


def _check_urls(engine: str | None, *texts: str) -> None:
    """Refuse URLs without an engine, whose workers alone take them."""
    from leanmed.remote import is_url

    urls = [text for text in texts if is_url(text)]
    if urls and not is_engine(engine):
        raise DataError(
            f"expected --engine ray with URLs, got {urls[0]} without it; add --engine ray, or copy the files here"
        )


def _echo_answered(found: Any, remarks: Sequence[str] = ()) -> None:
    """How many answers there are and where, remarks, and what to be careful of; all on standard error."""
    from leanmed.data.telling import some

    typer.echo(f"{found.answered} answered -> {found.path}   Research use only: not a medical device.", err=True)
    for line in remarks:
        typer.echo(line, err=True)
    if found.unfamiliar:
        typer.echo(
            f"{len(found.unfamiliar)} of {found.answered} look unlike the images that the model was trained on, so "
            f"that the answers to them may mean nothing: {some(found.unfamiliar)}",
            err=True,
        )
    for name, reason in found.failed:
        typer.echo(f"failed: {name}: {reason}", err=True)
    if found.failed:
        typer.echo(f"{len(found.failed)} of {found.answered + len(found.failed)} inputs failed", err=True)


def _check_points(predictor: Any, files: Sequence[Any], prompts: Any, resume: bool, explain: Path | None) -> None:
    """Refuse points and boxes beside what does not go with them, and those that lie outside of the image."""
    if explain:
        raise DataError(
            "expected no --point or --box with --explain, which covers parts of an image that nobody points into, got "
            "both; leave one out"
        )
    if len(files) != 1 or resume:
        raise DataError(
            f"expected one image and no --resume with --point or --box, which are places in it, got {len(files)} "
            f"images{' and --resume' * resume}; predict one at a time"
        )
    predictor.check_prompts(predictor.frame(files[0]), prompts)


def _explaining(chosen: Any, files: Sequence[Any], mine: Sequence[Any], resume: bool) -> list[str]:
    """What is said of explanations before they are made, which takes long."""
    count = sum(path in chosen.inputs for path in mine)
    capped = f", which are the first {len(chosen.inputs)} of all; --explain-most explains more"
    said = f"explaining {count} of {len(mine)} images -> {chosen.folder}{capped * (len(chosen.inputs) < len(files))}"
    return [said, *["images that were answered before are not explained"] * resume]


@app.command()
def quantize(
    artifact: Annotated[Path, typer.Argument(help="A float artifact.", show_default=False)],
    to: Annotated[
        str,
        typer.Option(
            metavar="fp16|w8|int8|int4",
            help="fp16 or w8: weights of 16 or 8 bits, and arithmetic in float32; int8: weights and activations of 8 "
            "bits; int4: most weights of 4 bits, and activations of 8.",
            show_default=False,
        ),
    ],
    data: Data,
    out: Out,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="The most that the main score may fall. If not given: 0.005 for labels (AUC), and 0.01 for boxes "
            "(AP50) and masks (Dice)."
        ),
    ] = None,
    min_agreement: Annotated[
        float, typer.Option(help="The share of images that must get the float artifact's answer.")
    ] = 0.95,
    calibration: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Training images that set the ranges of the activations. If not given: 256 for labels, 64 for boxes "
            "and masks.",
        ),
    ] = None,
    attempts: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Make at most so many attempts, and keep the best. If not given, attempts go on until one passes with "
            "an error below 1 % of the answer's variance, or no technique is left. FP16 takes one attempt in any case.",
        ),
    ] = None,
    finetune: Annotated[int, typer.Option(min=0, help="Epochs of fine-tuning if nothing else helps; 0: none.")] = 0,
    unpack: Annotated[bool, typer.Option(help="Store 4-bit weights in 8 bits, for runtimes without INT4.")] = False,
    dataset: Annotated[
        str | None, typer.Option(help="How the data folder is laid out. If not given, as the artifact's recipe says.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make an artifact smaller and faster, and refuse if it loses more than it may.

    Training images set the ranges, validation images choose among the techniques, and images new to the
    artifact measure the choice. If a model was trained on all images and none is new to it, one half of them sets the
    ranges, and the other half chooses and measures. Writes the artifact OUT and a report OUT-report; if every attempt
    loses too much, it writes the report alone.

    Example: `leanmed quantize artifact --to int8 --data my-images --out artifact-int8`
    """
    needs("quantize", "train", *(TRAINING if finetune else (*REPORTING, "onnx")))
    from leanmed.compress.bench import Options
    from leanmed.compress.command import quantize_artifact
    from leanmed.papers.published import BESIDE

    options = Options(max_drop, min_agreement, epochs=finetune, unpack=unpack, attempts=attempts)
    with stages() as progress:
        outcome = quantize_artifact(
            artifact,
            to,
            data,
            out,
            options,
            calibration=calibration,
            dataset=dataset,
            overwrite=overwrite,
            command=typed(),
            published=BESIDE,
            tell=typer.echo,
            progress=progress,
        )
    for line in outcome.lines():
        typer.echo(line)
    typer.echo(f"Research use only: not a medical device.\nwrote {out}")


@app.command()
def compress(
    run: Annotated[Path, typer.Argument(help="A finished run folder.", show_default=False)],
    data: Data,
    out: Out,
    budget: Annotated[
        str,
        typer.Option(
            metavar="size=3MB,latency=20ms,memory=200MB",
            help="The most that the model file, one answer on one thread, and the memory that it takes may be; one of "
            "them or several.",
            show_default=False,
        ),
    ],
    minutes: Annotated[
        float,
        typer.Option(
            min=0, help="Begin nothing new when this time is over; the training of a student is stopped, and can go on."
        ),
    ] = 60.0,
    student: Annotated[
        list[str],
        typer.Option(
            metavar="NAME:KEY=VALUE",
            help="A smaller network to train too, with the run as its teacher: a name of yours, and a value of the "
            "recipe to change, such as small:model.backbone=mobilenetv3_small_050. Repeatable, also for one name. If "
            "not given: some that suit the kind of task.",
        ),
    ] = [],  # noqa: B006
    students: Annotated[
        bool, typer.Option("--students/--no-students", help="Train smaller networks, or compress the run's own alone.")
    ] = True,
    finetune: Annotated[
        int, typer.Option(min=0, help="Try fine-tuning for integers too, for so many epochs; 0: do not.")
    ] = 0,
    fold: Annotated[
        int, typer.Option(min=0, help="The fold of the run whose model is compressed, and whose images choose.")
    ] = 0,
    calibration: Annotated[
        int | None,
        typer.Option(min=1, help="Training images that set the ranges of the activations; see leanmed quantize."),
    ] = None,
    attempts: Annotated[
        int, typer.Option(min=1, help="Make at most so many attempts at each compression to integers.")
    ] = 2,
    device: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Another device's table of times, which leanmed benchmark --device-table wrote there; latency is then "
            "that device's. If not given, answers are timed on this machine.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a search that was stopped or is over.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Search for the best artifact that a device allows: state the budget, not the technique.

    It tries the run's network and smaller ones that learn from it, each in every precision, measures size, latency and
    memory, and chooses on the validation images of one fold. The test images of the fold are looked at once, for the
    artifact that is given and the float model. Writes OUT/artifact, the artifacts of the Pareto front in OUT/front,
    report.html and report.json. If nothing keeps within the budget, the exit status is not 0, and the report tells the
    nearest miss.

    Example: `leanmed compress run --budget size=3MB,latency=20ms --data my-images --out small`
    """
    needs("compress", "train", *TRAINING, "optuna")
    from leanmed.search.budget import Budget
    from leanmed.search.command import Settings, compress_run
    from leanmed.tasks.recipes import open_run

    wanted = Budget.parse(budget)
    times: dict[str, Any] = {}
    if device:
        from leanmed.benchmark.device import read_table
        from leanmed.files import sha256_file

        times["elsewhere"] = read_table(device).estimate
        times["timed_on"] = f"the device of the table {sha256_file(device)[:12]}"
    if student and not students:
        raise DataError("expected --student or --no-students, got both; leave one out")
    settings = Settings(
        minutes=minutes,
        students=student if students else None,
        fold=fold,
        calibration=calibration,
        epochs=finetune,
        attempts=attempts,
        **times,
    )
    with stoppable("--resume"), stages() as progress:
        found = compress_run(
            open_run(run),
            data,
            out,
            wanted,
            settings,
            resume=resume,
            overwrite=overwrite,
            command=typed(),
            tell=typer.echo,
            progress=progress,
        )
    for line in filter(None, (found.leak, found.answer)):
        typer.echo(line)
    typer.echo(f"Research use only: not a medical device.\nwrote {out / 'artifact'} and {out / 'report.html'}")


@app.command()
def benchmark(
    artifacts: Annotated[list[Path], typer.Argument(help="Artifact folders.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="The JSON file to write.")] = None,
    device_table: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write what each class of operator takes on this machine, by which the latency of other artifacts "
            "here can be worked out elsewhere. Without --out, nothing else is measured.",
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="The run folder of the same model, to measure it in PyTorch too, eager and compiled."),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Images to predict. If not given, images are made.")] = None,
    repeats: Annotated[int, typer.Option(min=3, help="Rounds, in which all take turns, at most.")] = 30,
    seconds: Annotated[
        float,
        typer.Option(
            min=1,
            help="When this time is over, no further round is begun. Three are made however long they take, and "
            "loading the models comes on top. The last line says how many there were.",
        ),
    ] = 300,
    overwrite: Overwrite = False,
) -> None:
    """Measure size, latency, start time and memory, side by side with PyTorch on the same pixels.

    With `--device-table`, writes a table of this machine's speed, or both if `--out` is given too. On a phone or a
    Raspberry Pi, `pip install leanmed` is enough for that.

    Example: `leanmed benchmark artifact --run run --images photos --out benchmark.json`, or `leanmed benchmark artifact
    artifact-int8 --device-table this-device.json`
    """
    from leanmed.benchmark.benchmark import BENCHMARK, benchmark, table
    from leanmed.benchmark.device import DEVICE_TABLE, measure_device, told, write_table
    from leanmed.files import write_json

    _check_benchmarked(out, device_table, run, images)
    if run:
        needs("benchmark", "train", *TRAINING)
    if out:
        BENCHMARK.check(out, overwrite=overwrite)
    if device_table:
        DEVICE_TABLE.check(device_table, overwrite=overwrite)
    if out:
        found = benchmark(artifacts, run=run, images=images, repeats=repeats, seconds=seconds, tell=typer.echo)
        write_json(out, {"command": typed(), **found})
        typer.echo(f"{table(found)}\nwrote {out}")
    if device_table:
        device = measure_device(artifacts, repeats=repeats, seconds=seconds, command=typed(), tell=typer.echo)
        write_table(device_table, device)
        typer.echo("\n".join([*told(device), f"wrote {device_table}"]))


def _check_benchmarked(out: Path | None, device_table: Path | None, run: Path | None, images: Path | None) -> None:
    """Refuse options that ask for nothing, for two files in one place, or for what a device table does not look at."""
    if not (out or device_table):
        raise DataError("expected --out FILE, --device-table FILE or both, got neither; say where to write")
    if out and device_table and out.resolve() == device_table.resolve():
        raise DataError(f"expected two files for --out and --device-table, got {out} for both; choose another one")
    given = [name for name, value in {"--run": run, "--images": images}.items() if value]
    if given and not out:
        raise DataError(
            f"expected {' and '.join(given)} with --out FILE, got --device-table alone, which is measured on made "
            "images and without PyTorch; add --out, or leave it out"
        )


@app.command()
def compare(
    artifacts: Annotated[
        list[Path],
        typer.Argument(
            help="Artifact folders, of which the first is what the others are compared with.", show_default=False
        ),
    ],
    data: Data,
    out: Out,
    dataset: Annotated[
        str | None, typer.Option(help="How the data folder is laid out. If not given, as each artifact's recipe says.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0, help="Time answers for so long, at most; three rounds are timed in any case.")
    ] = 60.0,
    overwrite: Overwrite = False,
) -> None:
    """Compare artifacts on the same images: figures with paired intervals, size, speed and memory.

    All are judged on the images that are new to each of them, and must answer the same question: one kind of task, the
    same labels. They may differ in network, precision and everything else. Writes report.html and report.json.

    Example: `leanmed compare artifact artifact-int8 artifact-int4 --data my-images --out comparison`
    """
    needs("compare", "report", *REPORTING)
    from leanmed.audit.grouping import AUDIT
    from leanmed.benchmark.compare import COMPARISON, compare_artifacts, told, write_comparison

    COMPARISON.check(out, overwrite=overwrite)
    with stages() as progress:
        found = compare_artifacts(
            artifacts,
            data,
            dataset=dataset,
            cache=out.parent / AUDIT,
            seconds=seconds,
            command=typed(),
            progress=progress,
        )
    write_comparison(out, found, overwrite=overwrite)
    for line in told(found):
        typer.echo(line)
    typer.echo(f"Research use only: not a medical device.\nwrote {out / 'report.html'} and {out / 'report.json'}")


@app.command()
def profile(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|RUN|ARTIFACT",
            help="A shipped recipe's name or a YAML file, a run folder, or an artifact folder.",
            show_default=False,
        ),
    ],
    settings: Set = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="A JSON file to write, with the machine's description.")] = None,
    repeats: Annotated[int, typer.Option(min=3, help="How many predictions are timed, at most.")] = 30,
    seconds: Annotated[
        float,
        typer.Option(min=1, help="When this time is over, no further prediction is timed, but three are in any case."),
    ] = 60,
    overwrite: Overwrite = False,
) -> None:
    """Print what a network costs: parameters, FLOPs, size, latency and memory. No data are needed.

    A recipe or a run is measured as its network in PyTorch, on an image of the network's own side; its weights are
    random, since the figures do not depend on them. An artifact is measured as it predicts, in ONNX Runtime, on a made
    photograph of 640 x 480 or a made slice of 384 x 384, and without PyTorch. `leanmed benchmark` compares several.

    Example: `leanmed profile retina --set model.backbone=enet`
    """
    from leanmed.benchmark.profile import PROFILE, profile, subject_of, table

    if out:
        PROFILE.check(out, overwrite=overwrite)
    if subject_of(subject) != "artifact":
        needs("profile", "train", *TRAINING)
    found = profile(subject, settings, repeats=repeats, seconds=seconds)
    typer.echo(table(found))
    if out:
        from leanmed.files import write_json

        write_json(out, {"command": typed(), **found})
        typer.echo(f"wrote {out}")


@app.command()
def reproduce(
    name: Annotated[
        str, typer.Argument(help="The paper's recipe: anemia, nodules, prostate or nerves.", show_default=False)
    ],
    data: Data,
    out: Out,
    settings: Set = [],  # noqa: B006
    protocols: Annotated[
        str,
        typer.Option(
            help="Those to train, with commas: paper,content,audited, or mobilenetv1,resnet50..., or "
            "teacher,enet,enet-distilled... All if not given. Before a student that learns from a teacher, its teacher "
            "and the student alone are trained, once for each seed."
        ),
    ] = "",
    seeds: Annotated[
        str,
        typer.Option(
            help="Seeds, with commas; each gives a split, unless --set split.seed=N holds it fixed, and a training."
        ),
    ] = "0",
    artifacts: Annotated[
        Path | None,
        typer.Option(help="nodules only: a folder of artifacts to measure too, such as resnet50 and resnet50-int8."),
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    quantization: Annotated[
        bool,
        typer.Option("--quantization", help="anemia only: train nothing, and compress every fold of the runs in OUT."),
    ] = False,
    finetune: Annotated[
        int, typer.Option(min=0, help="With --quantization: epochs of fine-tuning if nothing else helps.")
    ] = 0,
) -> None:
    """Train by the paper's protocol and by ours, and print the paper's tables beside what was measured.

    Example: `leanmed reproduce anemia --data cp-anemic --out reproduction --seeds 0,1,2`

    `--set resnet50:training.epochs=9` changes one of them alone. `--quantization` writes OUT/quantization.md, with the
    figures in FP16, INT8 and INT4. For prostate, the tables show the figures of each site, and what each student gains
    over itself without a teacher. For nerves, the figures of each kind of adapter by the points of the model's own
    localiser, and apart from them by points of the true masks.
    """
    needs("reproduce", "train", *TRAINING)
    from leanmed.papers.reproduce import parse_seeds, reproduce

    arms = [arm for arm in protocols.split(",") if arm]
    if quantization and (resume or overwrite or artifacts):
        raise DataError(
            "expected --quantization without --resume, which it does by itself, --overwrite and --artifacts; leave it "
            "out"
        )
    if quantization:
        from leanmed.compress.bench import Options
        from leanmed.papers.quantization import reproduce_quantization as quantize_folds

        options = Options(epochs=finetune)
        table = quantize_folds(
            name, data, out, options, settings=settings, arms=arms, seeds=parse_seeds(seeds), command=typed()
        )
    else:
        table = reproduce(
            name,
            data,
            out,
            settings=settings,
            arms=arms,
            seeds=parse_seeds(seeds),
            artifacts=artifacts,
            resume=resume,
            overwrite=overwrite,
            command=typed(),
            tell=typer.echo,
        )
    typer.echo(table)

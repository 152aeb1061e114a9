"""`CARD.md`: what an artifact is for, what it was made from, how good it is, and what is not known of it.

The headings follow the items of TRIPOD+AI (Collins et al. 2024, doi:10.1136/bmj-2023-078378) and CLAIM 2024
(Tejani et al., doi:10.1148/ryai.240300) that a training run can answer; the rest is listed as open, for
whoever publishes the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from leanmed.manifest import Manifest
from leanmed.report import markdown
from leanmed.report.report import Report
from leanmed.tasks import TASKS
from leanmed.tasks.kind import JudgePart

OPEN_ITEMS = (
    "Who the patients were, how and when they were enrolled, and who was left out (TRIPOD+AI 5, 6)",
    "How the reference standard was measured, and by whom (TRIPOD+AI 8; CLAIM: ground truth)",
    "How many images the study needed, and why (TRIPOD+AI 10)",
    "Validation in another place, at another time, with other devices (CLAIM: external testing)",
    "What a user does with the answer, and what a wrong one costs (TRIPOD+AI 27)",
    "Funding, conflicts of interest, ethics approval, registration (TRIPOD+AI 18)",
)


def write_card(manifest: Manifest, report: Report, difference: float) -> str:
    """The card as Markdown.

    Args:
        manifest: of the artifact, with the figures of its own test part.
        report: of the whole run it comes from.
        difference: the largest one found between graph and model.
    """
    sections = {
        "Intended use": manifest.intended_use,
        "What it does": _judge(manifest).describe(manifest),
        "Data and protocol": _data(manifest, report),
        "How good it is": _figures(manifest, report),
        "Subgroups": _subgroups(manifest, report),
        "Limits": markdown.bullets(_limits(manifest, report)),
        "Checks": f"Graph and model differ by at most {difference:.1e} on real images at their own size, "
        "20 x 20, 64 x 1000, portrait, landscape and 12 megapixels. The SHA-256 of each graph stands in "
        "leanmed.json and is checked before use.",
        "Open items": "A training run cannot answer these; whoever publishes the model should:\n\n"
        + markdown.bullets(OPEN_ITEMS),
    }
    leak = f"> **{manifest.leak}**\n\n" if manifest.leak else ""
    title = f"# {manifest.name} ({manifest.precision})\n\n"
    return leak + title + "\n\n".join(f"## {name}\n\n{text}" for name, text in sections.items()) + "\n"


def _judge(manifest: Manifest) -> JudgePart:
    return TASKS[manifest.task].judge


def _data(manifest: Manifest, report: Report) -> str:
    origin, table = manifest.provenance, report.table
    counts = f"{table.group.size} images in {table.groups} groups. " if table is not None else ""
    dataset, model = origin.recipe.get("data", {}).get("dataset"), origin.recipe.get("model", {})
    return (
        f"Data set `{dataset}` (SHA-256 `{origin.data_sha256[:16]}`): {counts}Protocol: {report.protocol}. "
        f"This artifact is fold {origin.fold}; unless asked for another, that is the one with the best "
        f"validation score. Backbone `{model.get('backbone')}`, weights `{model.get('weights')}`, seed "
        f"{origin.seed}, leanmed {origin.leanmed}. The whole recipe stands in leanmed.json. "
        f"{' '.join(report.notes)}"
    )


def _figures(manifest: Manifest, report: Report) -> str:
    rows = [
        (term.title, markdown.interval(manifest.figures[name], 3), markdown.interval(asdict(report.figures[name]), 3))
        for name, term in report.terms.items()
        if name in manifest.figures and name in report.figures
    ]
    table = markdown.table(("", "this model, its own test part", "all folds together"), rows)
    return f"{table}\n\nIn brackets: 95 % interval, bootstrap over groups."


def _subgroups(manifest: Manifest, report: Report) -> str:
    if not report.subgroups:
        return "The data set names no attribute to form subgroups by."
    columns = _judge(manifest).CARD_COLUMNS
    rows = [
        (
            f"{row.name}: {row.value}",
            row.n,
            row.groups,
            *(markdown.interval(asdict(row.figures[c]), 3) for c in columns),
        )
        for row in report.subgroups
    ]
    return markdown.table(("", "images", "groups", *columns.values()), rows)


def _limits(manifest: Manifest, report: Report) -> Iterable[str]:
    if manifest.leak:
        yield "The figures above leak and say nothing about new patients."
    yield (
        "Its figures hold for images like those above: same devices, light, ages and prevalence. Elsewhere, "
        "measure again."
    )
    yield "It answers for any picture, whatever it shows: it cannot say that an image is of another kind."
    yield from _judge(manifest).limits(manifest)
    if report.table is not None and report.table.groups < 500:
        yield f"{report.table.groups} groups are few: the intervals are wide, and subgroups are wider still."

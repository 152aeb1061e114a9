"""`CARD.md`: what an artifact is for, what it was made from, how good it is, and what is not known of it.

The headings follow the items of TRIPOD+AI (Collins et al. 2024, doi:10.1136/bmj-2023-078378) and CLAIM 2024
(Tejani et al., doi:10.1148/ryai.240300) that a training run can answer; the rest is listed as open, for
whoever publishes the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict

from leanmed.report import GLOSSARY, Report
from leanmed.runtime.artifact import Manifest

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
        "What it does": _what(manifest),
        "Data and protocol": _data(manifest, report),
        "How good it is": _figures(manifest, report),
        "Subgroups": _subgroups(report),
        "Limits": _bullets(_limits(manifest, report)),
        "Checks": f"Graph and model differ by at most {difference:.1e} on real images at their own size, "
        "20 x 20, 64 x 1000, portrait, landscape and 12 megapixels. The SHA-256 of each graph stands in "
        "leanmed.json and is checked before use.",
        "Open items": "A training run cannot answer these; whoever publishes the model should:\n\n"
        + _bullets(OPEN_ITEMS),
    }
    leak = f"> **{manifest.leak}**\n\n" if manifest.leak else ""
    title = f"# {manifest.name} ({manifest.precision})\n\n"
    return leak + title + "\n\n".join(f"## {name}\n\n{text}" for name, text in sections.items()) + "\n"


def _what(manifest: Manifest) -> str:
    labels, side = manifest.labels, manifest.input.side
    rule = "It answers the likeliest label."
    if manifest.threshold is not None:
        rule = (
            f"It answers `{labels[1]}` when that probability is at least {manifest.threshold:.3f}, a "
            "threshold chosen on validation images."
        )
    return (
        f"From one photograph (uint8, RGB or RGBA, any size, resized inside to {side} x {side}; what alpha "
        f"leaves out is ignored) it gives calibrated probabilities of {', '.join(f'`{n}`' for n in labels)} "
        f"(temperature {manifest.temperature:.3f}). {rule}"
    )


def _data(manifest: Manifest, report: Report) -> str:
    origin, table = manifest.provenance, report.table
    counts = f"{table.truth.size} images in {table.groups} groups. " if table is not None else ""
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
        (term.title, _cell(manifest.figures[name]), _cell(asdict(report.figures[name])))
        for name, term in GLOSSARY.items()
        if name in manifest.figures and name in report.figures
    ]
    table = _table(("", "this model, its own test part", "all folds together"), rows)
    return f"{table}\n\nIn brackets: 95 % interval, bootstrap over groups."


def _subgroups(report: Report) -> str:
    if not report.subgroups:
        return "The data set names no attribute to form subgroups by."
    columns = ("auc", "recall", "specificity")
    rows = [
        (f"{row.name}: {row.value}", row.n, row.groups, *(_cell(asdict(row.figures[c])) for c in columns))
        for row in report.subgroups
    ]
    return _table(("", "images", "groups", "ROC-AUC", "sensitivity", "specificity"), rows)


def _limits(manifest: Manifest, report: Report) -> Iterable[str]:
    if manifest.leak:
        yield "The figures above leak and say nothing about new patients."
    yield (
        "Its figures hold for images like those above: same devices, light, ages and prevalence. Elsewhere, "
        "measure again."
    )
    yield "It answers for any picture, whatever it shows: it cannot say that an image is of another kind."
    if report.table is not None and report.table.groups < 500:
        yield f"{report.table.groups} groups are few: the intervals are wide, and subgroups are wider still."


def _cell(figure: Mapping[str, float | int | None]) -> str:
    value, low, high = (_known(figure.get(key)) for key in ("value", "low", "high"))
    if value is None:
        return "–"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} ({low:.3f} to {high:.3f})"


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [[str(cell).replace("|", "\\|") for cell in row] for row in (head, *rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)

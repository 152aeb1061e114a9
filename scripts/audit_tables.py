"""Write the measured figures into docs/audit.md, between its marks.

    python scripts/audit_tables.py

The figures are those that scripts/measure_audit.py wrote into docs/results/.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from leanmed.files import write_text

DOCS = Path(__file__).resolve().parents[1] / "docs"


def main() -> None:
    measured = json.loads((DOCS / "results" / "audit.json").read_text("utf-8"))
    planted = json.loads((DOCS / "results" / "audit_recall.json").read_text("utf-8"))
    parts = {
        "sets": sets_table(measured["sets"]),
        "recall": recall_table(planted),
        "thresholds": thresholds_table(planted["reaching a score"]),
        "scale": scale_table(json.loads((DOCS / "results" / "scale.json").read_text("utf-8"))["audits"]),
    }
    text = (DOCS / "audit.md").read_text("utf-8")
    for name, lines in parts.items():
        mark = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = mark.sub(lambda found, lines=lines: found[1] + "\n".join(lines) + "\n" + found[2], text)
    write_text(DOCS / "audit.md", text)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]


def sets_table(sets: dict[str, Any]) -> list[str]:
    columns = ["images", "groups", "images with a copy", "largest group", "pairs", "known pairs found"]
    rows = [[name, *(row.get(column, "") for column in columns)] for name, row in sets.items()]
    return table(["set", *columns], rows)


def recall_table(planted: dict[str, Any]) -> list[str]:
    names = list(planted["changes"][0]["recall per set"])
    rows = [
        [
            f"{row['kind']}, {row['strength']}",
            *(f"{100 * row['recall per set'][name]:.0f}" for name in names),
            f"{100 * row['recall']:.0f}",
            row["false pairs"],
        ]
        for row in planted["changes"]
    ]
    whole = f"All in all, {100 * planted['recall']:.1f} % of the planted copies were found, "
    whole += f"and {100 * planted['precision']:.2f} % of the reported pairs were true."
    return [whole, "", *table(["change", *names, "all", "false pairs"], rows)]


def thresholds_table(scores: dict[str, Any]) -> list[str]:
    few, many = scores["few matches"], scores["many matches"]
    rows = [
        [f"{a['score']:.2f}", a["copies"], a["others"], b["copies"], b["others"]]
        for a, b in zip(few, many, strict=True)
    ]
    header = ["score at least", "few matches: copies", "others", "many matches: copies", "others"]
    return table(header, rows)


def scale_table(scale: dict[str, Any]) -> list[str]:
    rows = [
        [
            f"{int(name):,}",
            *(row[c] for c in ("seconds", "CPU seconds", "peak memory MB", "cache MB", "pairs")),
        ]
        for name, row in sorted(scale.items(), key=lambda item: int(item[0]))
    ]
    return table(["images", "seconds", "CPU seconds", "peak memory, MB", "cache, MB", "pairs"], rows)


if __name__ == "__main__":
    main()

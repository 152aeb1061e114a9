"""The items of `CARD.md` that a training cannot know, and that whoever publishes the model fills in.

They follow TRIPOD+AI (Collins et al. 2024, doi:10.1136/bmj-2023-078378) and CLAIM 2024 (Tejani et al.,
doi:10.1148/ryai.240300).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from leanmed.errors import ArtifactError
from leanmed.files import write_text
from leanmed.runtime.artifact import CARD, MAX_CARD_BYTES, read_card

ITEMS = {
    "patients": "Who the patients were, how and when they were enrolled, and who was left out (TRIPOD+AI 5, 6)",
    "reference": "How the reference standard was measured, and by whom (TRIPOD+AI 8; CLAIM: ground truth)",
    "size": "How many images the study needed, and why (TRIPOD+AI 10)",
    "external": "Validation in another place, at another time, with other devices (CLAIM: external testing)",
    "use": "What a user does with the answer, and what a wrong one costs (TRIPOD+AI 27)",
    "ethics": "Funding, conflicts of interest, ethics approval, registration (TRIPOD+AI 18)",
}
OPEN = "*open*"
# An item goes on to the next one, to a heading, or to the end: people indent as they like.
_ITEM = re.compile(
    r"^- \*\*(?P<key>[a-z]+)\*\*: (?P<question>.*)\n(?P<text>(?:(?!- \*\*|#).*(?:\n|\Z))*?)(?=- \*\*|#|\Z)", re.M
)


@dataclass(frozen=True)
class Item:
    """One item of a card.

    Args:
        key: by which `leanmed card --set` knows it.
        question: what it asks for.
        text: what was filled in; empty: it is open.
    """

    key: str
    question: str
    text: str = ""

    def markdown(self) -> str:
        """As it stands in the card."""
        lines = self.text.splitlines() or [OPEN]
        return f"- **{self.key}**: {self.question}\n" + "".join(f"  {line}\n" for line in lines)


def empty_items() -> str:
    """All items, open, as a new card has them."""
    return "".join(Item(key, question).markdown() for key, question in ITEMS.items())


def items_of(card: str) -> Iterator[Item]:
    """The items of a card, in their order."""
    for found in _ITEM.finditer(_with_line_ends(card)):
        text = "\n".join(line.removeprefix("  ").rstrip() for line in found["text"].splitlines()).strip()
        yield Item(found["key"], found["question"].strip(), "" if text == OPEN else text)


def _with_line_ends(card: str) -> str:
    """Each line ended as here, the last one too, whichever editor wrote it."""
    return "".join(f"{line}\n" for line in card.splitlines())


def fill_card(path: Path, settings: Sequence[str]) -> list[Item]:
    """Fill in items of an artifact's card; what stood there before is replaced. The card's items as they are then.

    Args:
        path: the artifact folder.
        settings: KEY=TEXT each; an empty text opens the item again.

    Raises:
        ArtifactError: the card is missing, too large or without such an item, or a setting is no KEY=TEXT.
    """
    file = path / CARD
    if not file.is_file() or file.stat().st_size > MAX_CARD_BYTES:
        raise ArtifactError(
            f"expected a card of at most {MAX_CARD_BYTES:,} bytes at {file}, got none or a larger one; export the "
            "artifact again"
        )
    card = _with_line_ends(read_card(path))
    for setting in settings:
        key, equals, text = setting.partition("=")
        known = [item.key for item in items_of(card)]
        if not equals or key not in known:
            raise ArtifactError(
                f"expected --set KEY=TEXT with a KEY among {', '.join(known) or 'none, as this card has no such items'}"
                f", got {setting!r}; correct it, or write into {file} with an editor"
            )
        start, end, question = next((*f.span(), f["question"]) for f in _ITEM.finditer(card) if f["key"] == key)
        last = "\n" if card[end:].startswith("#") else ""
        card = card[:start] + Item(key, question.strip(), text.strip()).markdown() + last + card[end:]
    if settings:
        write_text(file, card)
    return list(items_of(card))

from __future__ import annotations

import sys

import pytest

from leanmed.cli import main
from leanmed.errors import ArtifactError
from leanmed.runtime.artifact import CARD, MAX_CARD_BYTES, read_artifact
from leanmed.runtime.card import ITEMS, empty_items, fill_card, items_of
from leanmed.runtime.predictor import load


@pytest.fixture
def artifact(own_artifact):
    (own_artifact / CARD).write_text(f"# made\n\n## Items\n\n{empty_items()}\n## After\n\n- **Bold**: no item\n")
    return own_artifact


def test_a_new_card_has_every_item_open():
    assert {item.key: (item.question, item.text) for item in items_of(empty_items())} == {
        key: (question, "") for key, question in ITEMS.items()
    }


def test_filling_in_an_item_changes_it_alone_and_predictions_go_on(artifact):
    before = (artifact / CARD).read_text()
    items = fill_card(artifact, ["patients=Children of 6 to 59 months\nseen at two clinics = A, B"])
    assert {item.key: item.text for item in items if item.text} == {
        "patients": "Children of 6 to 59 months\nseen at two clinics = A, B"
    }
    text = f"- **patients**: {ITEMS['patients']}\n  Children of 6 to 59 months\n  seen at two clinics = A, B\n"
    assert (artifact / CARD).read_text() == before.replace(f"- **patients**: {ITEMS['patients']}\n  *open*\n", text)
    assert load(artifact).artifact.card == (artifact / CARD).read_text()


def test_an_item_can_be_filled_in_again_and_opened_again(artifact):
    before = (artifact / CARD).read_text()
    fill_card(artifact, ["ethics=none yet"])
    assert [item.text for item in fill_card(artifact, ["ethics=approved"]) if item.key == "ethics"] == ["approved"]
    fill_card(artifact, ["ethics="])
    assert (artifact / CARD).read_text() == before


@pytest.mark.parametrize(
    "edited",
    [
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("*open*", "*open*  "),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("  *open*", "not indented\n\nand a second paragraph"),
    ],
)
def test_whatever_editor_wrote_the_card_what_is_filled_in_is_kept_and_the_rest_stays(artifact, edited):
    (artifact / CARD).write_bytes(edited((artifact / CARD).read_text()).encode())
    before = {item.key: item.text for item in items_of((artifact / CARD).read_bytes().decode())}
    assert list(before) == list(ITEMS)
    fill_card(artifact, ["use=a nurse", "ethics=approved"])
    after = {item.key: item.text for item in items_of((artifact / CARD).read_text())}
    assert after == before | {"use": "a nurse", "ethics": "approved"}
    assert "\n## After\n\n- **Bold**: no item\n" in (artifact / CARD).read_text()


def test_a_card_that_was_written_with_an_editor_is_no_damage(own_artifact):
    (own_artifact / CARD).write_bytes(b"# ours \xff\n")
    assert read_artifact(own_artifact).card == "# ours \ufffd\n"
    assert load(own_artifact)


@pytest.mark.parametrize("setting", ["patients", "age=4", "=text"])
def test_what_is_no_item_is_refused_and_nothing_is_written(artifact, refused, setting):
    before = (artifact / CARD).read_text()
    with refused(ArtifactError, "expected --set KEY=TEXT with a KEY among patients, reference", repr(setting)):
        fill_card(artifact, ["use=screening", setting])
    assert (artifact / CARD).read_text() == before


def test_a_card_without_items_or_none_at_all_is_refused(own_artifact, refused):
    with refused(ArtifactError, "this card has no such items", "with an editor"):
        fill_card(own_artifact, ["use=screening"])
    (own_artifact / CARD).write_text("x" * (MAX_CARD_BYTES + 1))
    with refused(ArtifactError, "expected a card of at most"):
        fill_card(own_artifact, [])
    (own_artifact / CARD).unlink()
    with refused(ArtifactError, "expected a card", "export the artifact again"):
        fill_card(own_artifact, [])


def test_the_command_lists_the_items_and_fills_them_in(artifact, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["leanmed", "card", str(artifact), "--set", "use=A nurse looks again"])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert "use        A nurse looks again\n" in shown
    assert f"patients   open: {ITEMS['patients']}\n" in shown
    assert f"wrote {artifact / CARD}" in shown

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leanmed.errors import UnreadableInput
from leanmed.figures.bootstrap import Figure
from leanmed.records import Record
from leanmed.report import report
from leanmed.report.pages import number
from leanmed.report.pictures import montage
from leanmed.report.plots import History, Plot
from leanmed.report.report import (
    AtPrevalence,
    DataSet,
    Example,
    FoldRow,
    Gallery,
    Mistake,
    Montage,
    Provenance,
    Report,
    Term,
    as_json,
    fold_mean,
    fold_rows,
    render,
    write_report,
)
from leanmed.tasks.classification import judge
from leanmed.tasks.classification.figures import Scored, paired, point, score, subgroups

LEAK = "This result LEAKS: copies stand on both sides."
HOSTILE = "<script>alert('x')</script>\"'&\udc80.png"
PROVENANCE = Provenance("ab12", (0, 1), {"leanmed": "0.1"}, {"model": {"side": 224}}, "leanmed evaluate")
PLAIN = Report(
    title="T",
    protocol="P.",
    figures={"dice": Figure(0.8, 0.7, 0.9, 5)},
    main_score="dice",
    provenance=PROVENANCE,
    words=judge.WORDS,
    terms=judge.TERMS,
)


def made(k=2, n=120):
    rng, truth = np.random.default_rng(0), np.arange(n) % k
    raw = rng.random((n, k)) + 0.4 * np.eye(k)[truth]
    p = raw / raw.sum(axis=1, keepdims=True)
    group = np.char.mod("g%d", np.arange(n) // 2)
    return Scored(truth, p, p.argmax(axis=1), group, ("no", "yes", HOSTILE)[:k], np.arange(n) // (n // 3))


def full(k=2, table=None, **changes):
    table = made(k) if table is None else table
    n = table.truth.size
    content = Report(
        title="Eyelids",
        protocol="Three folds.",
        figures=score(table, resamples=50),
        main_score="auc",
        provenance=PROVENANCE,
        words=judge.WORDS,
        terms=judge.terms(table),
        remarks=judge.remarks(table),
        plots=judge.plots(table, [0.4, 0.5, 0.6]),
        table=table,
        folds=fold_rows(table, point, {0: 0.4, 1: 0.5, 2: 0.6}, {0: 1.5}),
        subgroups=subgroups(table, {"site": [HOSTILE] * 4 + ["b"] * (n - 4)}, resamples=20),
        comparisons={"INT8 against float": paired(table, table, resamples=20)},
        notes=[f"could not read {HOSTILE}"],
        histories=[History(0, [0.7, 0.5], [0.7, 0.6], [0.5, 0.6], "f1", 1)],
        mistakes=judge.mistakes(table, [Record(f"{i}", Path(f"{i}.png"), "no", "g") for i in range(n)], []),
    )
    return replace(content, **changes)


def read(image):
    """The picture of an image file: red, and transparent but for its middle."""
    pixels = np.zeros((40, 80, 4), np.uint8)
    pixels[..., 0] = 255
    pixels[10:30, 20:60, 3] = 255
    return pixels


class Page(HTMLParser):
    """The words of a page in order, and its tags with their attributes."""

    def __init__(self, html):
        super().__init__()
        self.words, self.tags, self._hidden = [], [], False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._hidden = tag in ("style", "title")

    def handle_endtag(self, tag):
        self._hidden = False

    def handle_data(self, data):
        if data.strip() and not self._hidden:
            self.words.append(data.strip())


@cache
def page(k=2, leak=None):
    """A full page; it takes a second to draw, so tests share it."""
    return render(full(k, leak=leak), read)


def words(html):
    return Page(html).words


def test_a_leak_is_the_first_line_of_the_page_and_the_first_key_of_the_json():
    assert words(page(leak=LEAK))[0] == LEAK
    assert "<title>LEAKS: " in page(leak=LEAK)
    assert next(iter(as_json(full(leak=LEAK)).items())) == ("leak", LEAK)


def test_without_a_leak_the_page_says_nothing_of_one_and_the_json_null():
    assert "LEAK" not in page()
    assert as_json(full())["leak"] is None


@pytest.mark.parametrize("leak", [None, LEAK])
def test_research_use_only_stands_at_the_top_and_at_the_bottom(leak):
    shown = words(page(leak=leak))
    assert shown[1 if leak else 0] == shown[-1] == "Research use only. Not a medical device."


@pytest.mark.parametrize("k", [2, 3])
def test_the_json_holds_the_keys_its_docstring_lists(k):
    values = as_json(full(k))
    listed = re.findall(r"^([a-z_]+(?:, [a-z_]+)*)(?:  |$)", report.__doc__.split("```")[1], re.MULTILINE)
    assert set(values) == {key for line in listed for key in line.split(", ")}
    assert set(values["metrics"]["auc"]) == {"value", "low", "high", "n"}
    assert values["images"] == 120
    assert values["groups"] == 60
    assert values["per_fold"][0]["threshold"] == 0.4
    assert values["per_fold"][1]["temperature"] is None
    assert values["subgroups"][1]["n"] == 116


def test_both_files_are_written_and_hold_what_was_given(tmp_path):
    content = full()
    write_report(tmp_path / "new", content)
    values = json.loads((tmp_path / "new/report.json").read_text())
    assert values["metrics"] == {name: vars(figure) for name, figure in content.figures.items()}
    assert values["recipe"] == {"model": {"side": 224}}
    assert values["seeds"] == [0, 1]
    assert (tmp_path / "new/report.html").read_text() == render(content)


def test_a_fold_without_a_label_has_nulls_dashes_and_the_reason():
    table = made()
    content = full(table=replace(table, fold=np.where(table.truth == 1, 0, table.fold)))
    values = as_json(content)
    assert values["per_fold"][1]["figures"]["auc"] is None
    only = values["per_fold"][0]["figures"]["auc"]
    assert values["fold_mean"]["auc"] == {"mean": only, "sd": None, "folds": 1}
    shown = words(render(replace(content, table=None)))
    assert "–" in shown
    assert "Undefined (–) without images of every label: ROC-AUC, Average precision, F1, ECE." in shown
    assert "Undefined (–) without positive images and answers, and negative images: Precision." in shown


def test_a_test_set_of_one_label_still_has_a_report():
    table = made()
    content = full(table=table.subset(table.truth == 1))
    html = render(content)
    assert "ROC curve" not in html
    assert "Confusion matrix" in html


def test_a_report_of_three_labels_has_none_that_is_the_positive_one():
    shown = " ".join(words(render(full(3, words=judge.words(made(3))), read)))
    assert not re.search(r"positive (image|label|answer)|[Oo]f two|two labels|at least the threshold", shown)
    assert "Guessing the same for each of 3 labels gives 1.099." in shown
    assert "Temperature Chosen on validation images, never on test images." in shown
    binary = " ".join(words(page(2)))
    assert "Of the positive images, the share answered positive." in binary
    assert "Threshold and temperature Chosen on validation images" in binary


def test_data_sets_stand_beside_each_other_and_predictive_values_below():
    auc = Figure(0.8, 0.75, 0.85, 120)
    sets = [
        DataSet("carried", {"auc": auc}, 300),
        DataSet(
            HOSTILE, {"auc": Figure(0.7, 0.6, 0.8, 120)}, 120, 60, "carried", {"auc": Figure(-0.1, -0.2, 0.0, 120)}
        ),
    ]
    rows = [AtPrevalence("as stated", 0.05, {"ppv": Figure(0.2, 0.1, 0.3, 120), "npv": Figure(0.99, 0.98, 1, 120)})]
    html = render(full(data_sets=sets, predictive_values=rows))
    shown = words(html)
    at = shown.index("Data sets", shown.index("What to know first"))
    assert {"carried", "300", "–", "0.800", "0.750 to 0.850", "−0.100", "−0.200 to 0.000"} <= set(shown[at : at + 60])
    assert "<script>" not in html
    assert {"0.050", "0.200", "0.100 to 0.300", "Negative predictive value"} <= set(shown)
    assert {"#data-sets", "#prevalence"} <= {a.get("href") for tag, a in Page(html).tags if tag == "a"}
    values = as_json(full(data_sets=sets, predictive_values=rows))
    assert values["data_sets"][1]["change"]["auc"] == {"value": -0.1, "low": -0.2, "high": 0.0, "n": 120}
    assert values["predictive_values"][0]["figures"]["npv"]["low"] == 0.98


def test_the_mean_of_folds_is_worked_over_those_that_define_the_figure():
    folds = [FoldRow(i, 9, 9, {"auc": value}) for i, value in enumerate([0.6, float("nan"), 0.8])]
    assert fold_mean(folds)["auc"] == pytest.approx({"mean": 0.7, "sd": np.sqrt(0.02), "folds": 2})
    assert fold_mean([]) == {}


def test_fold_rows_score_each_fold_by_itself():
    table = made()
    rows = fold_rows(table, point, {2: 0.3})
    assert [(row.fold, row.images, row.groups, row.threshold) for row in rows] == [
        (0, 40, 20, None),
        (1, 40, 20, None),
        (2, 40, 20, 0.3),
    ]
    assert rows[1].figures == point(table.subset(table.fold == 1))
    assert fold_rows(replace(table, fold=None), point) == []


@pytest.mark.parametrize("k", [2, 3])
def test_nothing_on_the_page_runs_or_is_fetched(k):
    tags = Page(page(k)).tags
    assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in tags}
    for _, attributes in tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith("#")
    assert ("http-equiv", "Content-Security-Policy") in {item for _, a in tags for item in a.items()}


def test_untrusted_names_are_shown_as_text():
    assert any(word.startswith("<script>alert") for word in words(page(3)))


def test_links_of_the_contents_lead_somewhere():
    tags = Page(page()).tags
    targets = {a["href"].removeprefix("#") for tag, a in tags if tag == "a"}
    assert targets <= {a.get("id") for _, a in tags}
    assert len(targets) == 8


def test_every_picture_has_words_for_it_and_the_page_is_small():
    images = [a for tag, a in Page(page(3)).tags if tag == "img"]
    assert all(a["alt"] for a in images)
    assert len(images) == 7 + 12
    assert len(page(3)) < 2_000_000


def test_the_same_content_gives_the_same_page():
    assert render(full(3), read) == page(3)


def test_a_report_needs_no_table_and_takes_figures_and_plots_of_other_tasks(tmp_path):
    froc = Plot("FROC", "Reading.", "Words.", "<svg xmlns='http://www.w3.org/2000/svg'/>")
    write_report(tmp_path, replace(PLAIN, plots=[froc], terms={"dice": Term("Dice", "Overlap of two masks.")}))
    shown = words((tmp_path / "report.html").read_text())
    assert {"FROC", "Dice", "Overlap of two masks.", "0.700 to 0.900"} <= set(shown)
    assert json.loads((tmp_path / "report.json").read_text())["images"] is None
    assert "dice" in words(render(PLAIN))


def test_few_groups_are_warned_of():
    table = made(n=60)
    few = report._remarks(replace(PLAIN, table=table.subset(np.arange(40))))
    assert any("as few as 20 groups" in remark for remark in few)
    assert not any("as few as" in remark for remark in report._remarks(replace(PLAIN, table=table)))


def test_the_baseline_of_the_commonest_label_is_stated():
    table = made()
    few = table.subset(np.flatnonzero((table.truth == 0) | (table.fold == 0)))
    assert judge.remarks(few) == [
        "80 images in 60 groups: 60 no, 20 yes. Always answering no would have an accuracy of 0.750."
    ]


def test_worst_mistakes_are_the_surest_one_of_each_group():
    p = np.array([0.9, 0.8, 0.7, 0.95, 0.2])
    table = Scored(
        np.array([0, 0, 0, 1, 1]),
        np.stack([1 - p, p], 1),
        np.array([1, 1, 1, 1, 0]),
        np.array(list("aabcd")),
        ("no", "yes"),
    )
    mistakes = judge.mistakes(table, [Record(c, Path(c), "no", "g") for c in "vwxyz"], [])
    assert [(m.id, m.truth, m.answered, m.probability) for m in mistakes] == [
        ("v", "no", "yes", 0.9),
        ("z", "yes", "no", 0.8),
        ("x", "no", "yes", 0.7),
    ]


def thumbnails(html):
    sources = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(source))) for source in sources]


def test_thumbnails_keep_their_shape_and_lie_on_neutral_grey():
    (picture,) = thumbnails(render(replace(PLAIN, mistakes=[Mistake("i", Path("i"), "a", "b", 0.9)]), read))
    assert picture.size == (80, 40)
    assert picture.getpixel((2, 2)) == pytest.approx((128, 128, 128), abs=4)
    red, green, blue = picture.getpixel((40, 20))
    assert red > 240
    assert max(green, blue) < 20


def test_large_pictures_are_made_small():
    mistakes = [Mistake("i", Path("i"), "a", "b", 0.9)]
    (picture,) = thumbnails(render(replace(PLAIN, mistakes=mistakes), lambda _: np.full((900, 600, 4), 255, np.uint8)))
    assert picture.size == (160, 240)


def test_a_picture_that_cannot_be_read_says_so():
    def unreadable(image):
        raise UnreadableInput("damaged")

    mistakes = [Mistake("i", Path("i"), "a", "b", 0.9)]
    assert "cannot be read" in words(render(replace(PLAIN, mistakes=mistakes), unreadable))


def test_a_report_that_fails_leaves_the_old_one_whole(tmp_path):
    write_report(tmp_path, PLAIN)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ZeroDivisionError):
        write_report(
            tmp_path, replace(PLAIN, title="new", mistakes=full().mistakes), read=lambda _: 1 // 0, overwrite=True
        )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert set(before) == {"report.html", "report.json"}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.123"), (-0.5, "−0.500"), (-0.0001, "0.000"), (None, "–"), (float("nan"), "–")],
)
def test_numbers_are_written_for_people(value, text):
    assert number(value) == text


def sorted_by(truth, predicted, sureness, labels=("no", "yes"), groups=None):
    """The gallery of images a, b, c... whose answers have these probabilities."""
    k, n = len(labels), len(truth)
    p = np.full((n, k), 0.0)
    p[np.arange(n), predicted] = sureness
    rest = (1 - np.array(sureness)) / (k - 1)
    p += np.where(p > 0, 0, rest[:, None])
    names = [chr(97 + i) for i in range(n)]
    table = Scored(np.array(truth), p, np.array(predicted), np.array(list(groups or names)), labels)
    return judge.gallery(table, [Record(c, Path(c), labels[t], c) for c, t in zip(names, truth, strict=True)], [])


def test_each_cell_of_the_confusion_matrix_has_its_montage_errors_first_and_the_surest_leading():
    found = sorted_by([0, 0, 0, 1, 1, 1, 1], [0, 1, 0, 0, 0, 1, 0], [0.6, 0.7, 0.9, 0.8, 0.9, 0.75, 0.7])
    cells = [(m.truth, m.answered, m.images, [e.id for e in m.examples]) for m in found.montages]
    assert cells == [
        ("yes", "no", 3, ["e", "d", "g"]),
        ("no", "yes", 1, ["b"]),
        ("no", "no", 2, ["c", "a"]),
        ("yes", "yes", 1, ["f"]),
    ]
    assert [e.probability for e in found.montages[0].examples] == pytest.approx([0.9, 0.8, 0.7])
    assert [m.title for m in found.montages[1:3]] == ["True no, answered yes", "True no, answered so"]


def test_a_montage_shows_one_image_of_a_group_and_sixteen_at_most_but_counts_all():
    few = sorted_by([0, 0, 0], [1, 1, 1], [0.7, 0.9, 0.8], groups="xxy").montages
    assert [(m.images, [e.id for e in m.examples]) for m in few] == [(3, ["b", "c"])]
    many = sorted_by([0] * 20, [0] * 20, np.linspace(0.6, 0.9, 20)).montages
    assert [(m.images, len(m.examples), m.examples[0].id) for m in many] == [(20, 16, "t")]


def test_with_many_labels_only_the_commonest_errors_are_shown_and_the_page_says_so():
    labels = tuple("vwxyz")
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j][:10]
    truth, predicted = zip(*[pair for k, pair in enumerate(pairs) for _ in range(1 + (k == 7))], (4, 4), strict=True)
    found = sorted_by(truth, predicted, [0.6] * 12, labels)
    assert len(found.montages) == 8
    assert (found.montages[0].truth, found.montages[0].answered) == (labels[pairs[7][0]], labels[pairs[7][1]])
    assert all(m.truth != m.answered for m in found.montages)
    assert found.reading.endswith(
        "There are 5 labels, so that only errors are shown, and of 10 kinds of error the 8 most frequent."
    )
    assert sorted_by([4], [4], [0.6], labels) is None


SHOWN = Gallery(
    "Reading.",
    [
        Montage("yes", "no", 3, [Example("b", Path("b"), 0.875), Example(HOSTILE, Path("c"), 0.75)]),
        Montage("no", "no", 1, [Example("d", Path("d"), 0.5)]),
    ],
)


def test_a_page_shows_montages_in_place_of_the_mistakes_and_every_image_once():
    html = render(replace(PLAIN, gallery=SHOWN, mistakes=[Mistake("b", Path("b"), "yes", "no", 0.875)]), read)
    shown = words(html)
    assert "Images by truth and answer" in shown
    assert "The surest mistakes" not in shown
    assert shown[shown.index("True yes, answered no") :][:5] == [
        "True yes, answered no",
        "3, of which 2 are shown",
        "0.88",
        "b",
        "0.75",
    ]
    assert len(thumbnails(html)) == 3
    assert thumbnails(html)[0].size == (80, 40)
    links = {a["href"] for tag, a in Page(html).tags if tag == "a"}
    assert "#montages" in links
    assert "#mistakes" not in links


def test_each_montage_is_a_picture_of_its_own_and_those_of_an_older_report_go(tmp_path):
    def damaged(image):
        if image == Path("c"):
            raise UnreadableInput("damaged")
        return read(image)

    write_report(tmp_path, replace(PLAIN, gallery=SHOWN), read=damaged)
    assert sorted(path.name for path in tmp_path.glob("*.jpg")) == ["montage-1.jpg", "montage-2.jpg"]
    with Image.open(tmp_path / "montage-1.jpg") as sheet:
        pixels = np.asarray(sheet).astype(int)
    (middle,), around = pixels[[100], 80], pixels[100, 164 + 80]
    assert middle[0] > 240
    assert middle[1:].max() < 25
    assert around == pytest.approx(128, abs=4), "what cannot be read is grey"
    assert "cannot be read" in words((tmp_path / "report.html").read_text())
    write_report(tmp_path, PLAIN, read=read, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_without_a_reader_a_gallery_is_words_alone(tmp_path):
    write_report(tmp_path, replace(PLAIN, gallery=SHOWN))
    assert thumbnails((tmp_path / "report.html").read_text()) == []
    assert not list(tmp_path.glob("*.jpg"))


def test_a_label_of_any_letters_stands_above_a_montage():
    title = replace(SHOWN.montages[0], truth="a\nb\udc80" + 300 * "c").title
    assert montage(title, [None], [0.5]).width < 1200

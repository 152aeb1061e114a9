from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from leanmed.errors import RecipeError
from leanmed.recipe.help import describe_recipe
from leanmed.recipe.recipe import Recipe, dump_recipe, preset_settings, shipped_recipes, shipped_text
from leanmed.tasks.recipes import KINDS, check_recipe, load_recipe, open_run, recipe_of_artifact


@pytest.fixture
def written(tmp_path):
    """`written("text")`: the path of a recipe that holds the text."""

    def write(text: str | bytes) -> str:
        path = tmp_path / "mine.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    return write


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_is_sound_and_bears_its_own_name(name):
    assert load_recipe(name).name == name


def test_the_defaults_are_the_settings_of_the_anemia_paper():
    training, recipe = load_recipe("anemia").training, load_recipe("anemia")
    assert training == load_recipe("folder").training
    assert (training.optimizer, training.learning_rate, training.batch_size) == ("adam", 1e-4, 32)
    assert (training.epochs, training.patience, training.select_by) == (150, 10, "f1")
    assert (recipe.model.backbone, recipe.model.side, recipe.split.folds) == ("mobilenetv2_100", 224, 5)


OUT_OF_RANGE = {
    "model.side=9999": "less than or equal to 1024",
    "split.folds=1": "greater than or equal to 2",
    "split.protocol=random": "'grouped', 'holdout', 'site', 'adapt' or 'paper'",
    "split.seed=4294967296": "less than or equal to 2147483647",
    "split.validation=0": "greater than 0",
    "training.learning_rate=.nan": "finite number",
    "training.weight_decay=.inf": "finite number",
    "training.epochs=2.5": "valid integer",
    "training.threshold=sensitivity:0.0": "match pattern",
    "training.threshold=best": "match pattern",
    "model={mean: [0.5, 0.5, 0.5]}": "both mean and std, or neither",
    "model.mean=[120, 110, 100]": "less than or equal to 1",
    "model.std=[1, 1, 0]": "greater than 0",
    "augment.scale=[1.1, 0.9]": "0 < low <= high",
    "data.labels=[[no], yes]": "valid string",
}


@pytest.mark.parametrize(("setting", "expected"), OUT_OF_RANGE.items())
def test_a_value_out_of_range_is_refused_by_its_key(setting, expected, refused):
    key, _, _ = setting.partition("=")
    with refused(RecipeError, f"--set {setting}: {key}", expected, ", got ", "`leanmed recipe` lists every key"):
        load_recipe("folder", [setting])


@pytest.mark.parametrize("setting", ["modell.side=128", "model.sides=128", "1=2"])
def test_an_unknown_key_is_refused_by_its_name(setting, refused):
    with refused(RecipeError, "unknown key", "got ", "`leanmed recipe` lists every key"):
        load_recipe("folder", [setting])


def test_the_value_that_is_shown_is_cut_short(refused):
    with pytest.raises(RecipeError) as caught:
        check_recipe({"name": "x", "data": {"labels": 10**6 * "x"}}, "x")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["sensitivity:0.95", "sensitivity:.9", "sensitivity:1", "youden", "f1"])
def test_every_threshold_that_calibration_knows_is_allowed(text):
    assert load_recipe("folder", [f"training.threshold={text}"]).training.threshold == text


DAMAGED = {
    "no YAML": (b"name: [", "expected valid YAML, got an error"),
    "no UTF-8": (b"name: \xff\xfe\xfa", "expected valid YAML, got an error"),
    "nested too deeply": (b"[" * 2_000, "expected valid YAML, got an error"),
    "empty": (b"", "expected keys and values, as `leanmed recipe` lists them, got None"),
    "a list": (b"- 1\n- 2", "got [1, 2]"),
    "a section twice": (b"name: x\nmodel: {side: 64}\nmodel: {dropout: 0}", "model stands twice"),
    "an alias": (b"name: &n x\nmodel: {backbone: *n}", "an alias stands in it"),
    "a key twice": (b"name: x\nmodel: {side: 64, side: 32}", "side stands twice"),
    "no name": (b"task: classification", "name: Field required"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_recipe_is_refused(kind, written, refused):
    text, expected = DAMAGED[kind]
    with refused(RecipeError, "mine.yaml", expected):
        load_recipe(written(text))


def test_a_recipe_that_is_nowhere_is_refused_with_the_names_of_those_that_are(refused):
    with refused(RecipeError, "anemia", "folder", "or a YAML file", "got 'anaemia', which is neither"):
        load_recipe("anaemia")


def test_a_recipe_of_ones_own_is_read_from_its_path(written):
    recipe = load_recipe(written("name: mine\nmodel: {side: 64}"), ["model.dropout=0.5", "training.seed=3"])
    assert (recipe.model.side, recipe.model.dropout, recipe.training.seed) == (64, 0.5, 3)


def test_numbers_without_a_dot_before_the_exponent_are_numbers():
    assert load_recipe("folder", ["training.learning_rate=1e-3"]).training.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("model.side", "expected --set key.path=value, got 'model.side'; for example"),
        ("name.first=x", "expected name to be a section, got a value"),
        ("model.side=[", "--set model.side=[: expected valid YAML"),
    ],
)
def test_an_override_of_another_form_is_refused(setting, expected, refused):
    with refused(RecipeError, expected):
        load_recipe("folder", [setting])


def test_a_recipe_written_out_reads_back_the_same(written):
    changes = ["training.learning_rate=1e-5", "data.labels=[a, b]", "evaluation.edges={age: [1, 2.5]}"]
    recipe = load_recipe("folder", [*changes, "model.backbone_args={pad_type: same}"])
    assert load_recipe(written(dump_recipe(recipe))) == recipe


def test_a_shipped_recipe_is_shown_as_it_is_written(refused):
    assert shipped_text("retina").startswith("# Vessels in photographs")
    with refused(RecipeError, "a shipped recipe among anemia, ", "got 'mine'"):
        shipped_text("mine")


def test_the_list_of_keys_is_complete_and_names_ranges():
    lines = describe_recipe(KINDS).splitlines()
    shared = keys_of(Recipe(name="x", task="classification"))
    own = [key for name in ("nodules", "retina", "nerves") for key in keys_of(load_recipe(name)) if key not in shared]
    assert {key.partition(".")[0] for key in own} == {"detector", "augment", "segmenter", "prompter"}
    listed = [line.partition(" = ")[0] for line in lines if " = " in line]
    assert listed[: len(shared) + 3] == ["task", *shared, "backbones", "presets"]
    others = {"data.dataset", "data.kind", "training.select_by"}  # those with another default
    assert [key for key in listed[len(shared) + 3 :] if key not in others] == own
    assert (
        lines[0] == "task = 'classification'  [classification | detection | segmentation | prompted]  the kind of task"
    )
    assert "model.side = 224  [>= 32, <= 1024]  pixels; images become side x side; paper: 224" in lines
    assert "training.optimizer = 'adam'  [adam | adamw | sgd]  paper: Adam" in lines
    for name in KINDS:
        start = lines.index(f"{name} ignores these keys, and refuses values for them:") + 1
        ignored = KINDS[name].IGNORED
        assert f"{name} takes as training.select_by: {', '.join(KINDS[name].SCORES)}" in lines
        assert lines[start : start + len(ignored)] == [f"{key}  {why}" for key, why in ignored.items()]


def keys_of(recipe):
    return [f"{s}.{key}" for s, section in recipe.model_dump().items() if isinstance(section, dict) for key in section]


def test_recipes_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load_recipe("folder").name = "other"  # type: ignore[misc]


def test_the_message_names_the_shipped_file(refused):
    with refused(RecipeError, str(Path("recipes") / "folder.yaml")):
        load_recipe("folder", ["x=1"])


def test_crops_and_images_must_fit_the_coarsest_map_of_a_detector(refused):
    with refused(RecipeError, "detector.crop times detector.zoom to be a multiple of 32, got 100"):
        load_recipe("nodules", ["detector.crop=50", "detector.zoom=2"])
    assert load_recipe("nodules", ["detector.crop=48", "detector.zoom=2"]).detector.crop == 48


OF_BACKBONES = """
name: mine
model: {backbone: small, side: 64}
training: {learning_rate: 0.5, epochs: 7}
backbones:
  small: {training: {epochs: 9}}
  large: {model: {side: 96, backbone_args: {pad_type: same}}, training: {learning_rate: 0.25}}
"""


@pytest.mark.parametrize(
    ("settings", "expected"),  # side, learning rate, epochs
    [
        ([], (64, 0.5, 9)),
        (["model.backbone=large"], (96, 0.25, 7)),
        (["model.backbone=other"], (64, 0.5, 7)),
        (["training.epochs=3"], (64, 0.5, 3)),
        (["model.side=32", "model.backbone=large"], (32, 0.25, 7)),
        (["model={backbone: large}"], (224, 0.25, 7)),
    ],
)
def test_settings_of_the_chosen_backbone_win_over_the_recipe_and_overrides_over_both(settings, expected, written):
    recipe = load_recipe(written(OF_BACKBONES), settings)
    assert (recipe.model.side, recipe.training.learning_rate, recipe.training.epochs) == expected


def test_a_recipe_written_out_holds_what_was_merged_and_nothing_of_other_backbones(written):
    recipe = load_recipe(written(OF_BACKBONES), ["model.backbone=large"])
    assert recipe.model.backbone_args == {"pad_type": "same"}
    assert "backbones:" not in dump_recipe(recipe)
    assert load_recipe(written(dump_recipe(recipe))) == recipe


WRONG_BACKBONES = {
    "backbones: 3": "mine.yaml: backbones: Input should be a valid dictionary, got 3",
    "backbones: {a: {training: 3}}": "backbones.a.training: Input should be a valid dictionary, got 3",
    "backbones: {a: {training: {epoch: 3}}}": "backbones.a: training.epoch: unknown key, got 3",
    "backbones: {a: {training: {epochs: 0}}}": "backbones.a: training.epochs: Input should be greater than",
    "backbones: {a: {trainings: {epochs: 3}}}": "backbones.a: trainings: unknown key",
    "backbones: {a: {model: {backbone: b}}}": "backbones.a: expected settings of a, got another model.backbone",
    "task: detection\nmodel: {side: 64}\nbackbones: {resnet5: {}}": "backbones.resnet5: unknown backbone; expected",
    "model: {sides: 64}\nbackbones: {a: {}}": "mine.yaml: model.sides: unknown key",
}


@pytest.mark.parametrize(("text", "expected"), WRONG_BACKBONES.items())
def test_wrong_settings_of_a_backbone_are_refused_by_name_though_it_is_not_chosen(text, expected, written, refused):
    with refused(RecipeError, expected):
        load_recipe(written(f"name: x\n{text}"))


def test_settings_of_single_backbones_are_written_in_a_file_only(refused):
    with refused(RecipeError, "backbones: unknown key"):
        load_recipe("nodules-paper", ["backbones.resnet50.training.epochs=3"])


PRINTED = {  # initial learning rate, thousands of steps
    "mobilenetv1": (0.001, 112.6),
    "mobilenetv2": (0.004, 109.9),
    "inceptionv2": (0.0001, 61.4),
    "resnet50": (0.04, 16.5),
    "resnet101": (0.04, 12.4),
}


@pytest.mark.parametrize("backbone", PRINTED)
def test_the_nodule_papers_recipe_passes_over_the_data_as_often_as_the_paper(backbone):
    """64 images a step of 2825 slices, 80 % of 3531: 112.6 thousand steps are 2551 epochs."""
    recipe = load_recipe("nodules-paper", [f"model.backbone={backbone}"])
    rate, thousands = PRINTED[backbone]
    assert (recipe.training.learning_rate, recipe.training.batch_size) == (rate, 64)
    assert recipe.training.epochs == round(thousands * 1000 * 64 / 2825) < recipe.training.patience
    assert (recipe.detector.matching, recipe.detector.near, recipe.detector.negatives) == (0.5, 0.5, 3)
    assert (recipe.detector.neck, recipe.detector.box_weight, recipe.model.side) == ("none", 1, 448)


@pytest.mark.parametrize(("name", "figure"), [("nodules", "auc"), ("anemia", "froc")])
def test_an_epoch_is_selected_by_a_figure_of_its_task(name: str, figure: str) -> None:
    with pytest.raises(RecipeError, match=r"expected training\.select_by among .*loss for"):
        load_recipe(name, [f"training.select_by={figure}"])


def test_labels_stay_the_text_that_they_are(tmp_path):
    names = ("no", "yes", "007", "1e5", "1.5e3", "NA", "null", "true", "2020-01-01", "1_000")
    listed = f"[{', '.join(names)}]"
    assert load_recipe("folder", [f"data.labels={listed}"]).data.labels == names
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: mine\ndata: {{labels: {listed}}}\nevaluation: {{subgroups: [no, 1]}}\n")
    recipe = load_recipe(str(path))
    assert recipe.data.labels == names
    assert recipe.evaluation.subgroups == ("no", "1")
    path.write_text(dump_recipe(recipe))
    assert load_recipe(str(path)) == recipe
    assert load_recipe("folder", ["data.labels=null"]).data.labels is None


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("nodules", "model.dropout=0.5"),
        ("nodules", "augment.rotation=3"),
        ("nodules", "augment.shift=0"),
        ("nodules", "training.label_smoothing=0.1"),
        ("anemia", "data.kind=slice"),
        ("anemia", "data.origin=centre"),
    ],
)
def test_a_setting_that_the_kind_of_task_ignores_is_refused_with_the_reason(name, setting, refused):
    key, _, value = setting.partition("=")
    task = load_recipe(name).task
    with refused(RecipeError, f"--set {setting}: {key}: {task} ignores it (", value, "leave it out"):
        load_recipe(name, [setting])


def test_a_section_of_another_kind_of_task_is_refused(refused):
    with refused(RecipeError, "detector: a section of detection, which classification ignores; leave it out"):
        load_recipe("anemia", ["detector.crop=64"])


def test_a_setting_that_is_ignored_may_stand_there_with_its_default():
    assert load_recipe("nodules", ["model.dropout=0.2"]) == load_recipe("nodules")


def test_a_kind_of_task_that_is_none_is_refused(refused):
    with refused(
        RecipeError,
        "task: expected one of classification, detection, segmentation, prompted, got 'telepathy'; name one of these",
    ):
        load_recipe("folder", ["task=telepathy"])


def format_1(name):
    """A stored recipe as format 1 wrote it: with the sections of all kinds, what they ignore with the rest."""
    content = load_recipe(name).model_dump(mode="json")
    other = load_recipe("nodules" if name == "anemia" else "anemia").model_dump(mode="json")
    del content["format"]
    content = {key: value for key, value in other.items() if key == "detector"} | content
    for key in KINDS[content["task"]].IGNORED:
        section, _, last = key.partition(".")
        content[section][last] = {"kind": "slice", "origin": "corner"}.get(last, 0.125)
    return content


@pytest.mark.parametrize("name", ["anemia", "nodules"])
def test_a_stored_recipe_of_format_1_is_read_without_what_its_kind_ignores(name):
    assert recipe_of_artifact(format_1(name)) == load_recipe(name)


def test_a_stored_recipe_of_another_format_or_with_an_old_setting_is_refused(refused):
    with refused(RecipeError, "expected a recipe of format 2 or older, got 3; install a newer leanmed"):
        recipe_of_artifact(format_1("anemia") | {"format": 3})
    with refused(RecipeError, "was written by an older leanmed", "model.sides: unknown key", "train again"):
        recipe_of_artifact(format_1("anemia") | {"model": {"sides": 3}})


def test_the_recipe_of_a_run_may_be_of_format_1(finished_run, tmp_path):
    path = Path(shutil.copytree(finished_run.path, tmp_path / "run"))
    content = yaml.safe_load((path / "recipe.yaml").read_text())
    assert content.pop("format") == 2
    (path / "recipe.yaml").write_text(yaml.safe_dump(content | {"detector": {"crop": 1}}))
    assert open_run(path).recipe == finished_run.recipe


OF_PRESETS = """
name: mine
model: {side: 64}
training: {epochs: 7}
presets:
  quick: {model: {side: 32, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}, training: {epochs: 2}}
"""


def test_a_preset_sets_what_its_recipe_says_and_overrides_win(written):
    path = written(OF_PRESETS)
    plain, quick = load_recipe(path), load_recipe(path, preset_settings(path, "quick"))
    assert (plain.model.side, plain.training.epochs, plain.model.mean) == (64, 7, None)
    assert (quick.model.side, quick.training.epochs, quick.model.mean) == (32, 2, (0.5, 0.5, 0.5))
    assert load_recipe(path, [*preset_settings(path, "quick"), "training.epochs=5"]).training.epochs == 5
    assert "presets" not in dump_recipe(quick)


def test_every_preset_of_a_shipped_recipe_is_sound():
    for preset in ("fast", "best"):
        assert load_recipe("folder", preset_settings("folder", preset)) != load_recipe("folder")


def test_a_preset_that_is_not_there_is_refused_with_those_that_are(refused):
    with refused(RecipeError, "--preset among fast, best for folder", "got 'best '"):
        preset_settings("folder", "best ")
    with refused(RecipeError, "no --preset with retina, which has none"):
        preset_settings("retina", "fast")


def test_presets_of_another_form_are_refused(written, refused):
    with refused(RecipeError, "presets.a.model: Input should be a valid dictionary"):
        preset_settings(written("name: x\npresets: {a: {model: 3}}"), "a")

"""What files of weights say of the images that they were trained on."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from leanmed.errors import RecipeError
from leanmed.models.preprocessing import as_weights_say
from leanmed.recipe.recipe import Model

HALF = (0.5, 0.5, 0.5)


@pytest.fixture
def weights(tmp_path):
    """`weights(key=text)`: a recipe's model with a .safetensors file that holds such metadata."""

    def make(**metadata: str) -> Model:
        path = tmp_path / "model.safetensors"
        save_file({"x": torch.zeros(1)}, path, metadata=metadata or None)
        return Model(backbone="mobilenetv2_100", weights=str(path))

    return make


@pytest.mark.parametrize(
    "metadata",
    [
        {"mean": "[0.5, 0.5, 0.5]", "std": "(0.5, 0.5, 0.5)", "pad_type": "same"},
        {"input": "RGB 224, x/127.5-1 (mean=std=0.5)", "arch": "timm mobilenetv2_100, pad_type='same'"},
    ],
)
def test_a_file_that_says_how_its_images_were_prepared_is_believed(metadata, weights):
    model, told = as_weights_say(weights(**metadata))
    assert (model.mean, model.std, model.backbone_args) == (HALF, HALF, {"pad_type": "same"})
    assert len(told) == 1
    assert "mean [0.5, 0.5, 0.5], std [0.5, 0.5, 0.5], pad_type same" in told[0]
    assert as_weights_say(model) == (model, [])  # so that a resumed run is as its start


def test_what_the_recipe_says_wins(weights):
    asked = weights(mean="0.5", std="0.5", pad_type="same").model_copy(
        update={"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "backbone_args": {"pad_type": ""}}
    )
    assert as_weights_say(asked) == (asked, [])


def test_a_file_that_says_nothing_leaves_a_remark(weights):
    asked = weights()
    model, (told,) = as_weights_say(asked)
    assert model == asked
    assert "does not say by which mean and standard deviation" in told
    assert "timm's own mobilenetv2_100" in told


def test_timms_config_beside_the_file_is_read_for_its_own_network_alone(weights, tmp_path):
    config = {"architecture": "mobilenetv2_100", "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": HALF}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model, _ = as_weights_say(weights())
    assert (model.mean, model.std) == ((0.1, 0.2, 0.3), HALF)
    (tmp_path / "config.json").write_text(json.dumps(config | {"architecture": "resnet18"}))
    assert as_weights_say(weights())[0].mean is None


@pytest.mark.parametrize("content", ["", "[]", "{", '{"architecture": "mobilenetv2_100", "pretrained_cfg": 3}'])
def test_a_config_of_another_form_says_nothing(content, weights, tmp_path):
    (tmp_path / "config.json").write_text(content)
    assert as_weights_say(weights())[0].mean is None


def test_a_mean_that_no_pixels_have_is_refused(weights, refused):
    with refused(
        RecipeError, "expected a mean and a standard deviation of three numbers", "mean [127.0, 127.0, 127.0]"
    ):
        as_weights_say(weights(mean="127", std="0.5"))


@pytest.mark.parametrize("name", ["imagenet", "none", "nowhere.safetensors"])
def test_weights_without_a_file_are_left_to_whoever_loads_them(name):
    asked = Model(weights=name)
    assert as_weights_say(asked) == (asked, [])


def test_networks_that_are_not_timms_are_left_as_they_are(weights):
    asked = weights(mean="0.5", std="0.5").model_copy(update={"backbone": "enet"})
    assert as_weights_say(asked) == (asked, [])

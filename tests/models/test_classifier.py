from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.transforms import v2

from leanmed.errors import RecipeError
from leanmed.models.classifier import HEAD_STD, Classifier, fill_background
from leanmed.models.familiarity import Watched, watching
from leanmed.recipe import recipe as config

BACKBONE = "test_efficientnet"
SHAPES = [(20, 20), (20, 1000), (1000, 20), (33, 31), (32, 32), (300, 401)]


def classifier(pretrained: bool = True, outputs: int = 1, **settings: object) -> Classifier:
    torch.manual_seed(0)
    model = config.Model.model_validate({"backbone": BACKBONE, "weights": "none", "side": 32, **settings})
    return Classifier(model, outputs, pretrained=pretrained).eval()


def pixels(height: int, width: int, channels: int = 4, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (height, width, channels), dtype=np.uint8))


def logits(model: Classifier, image: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(model.resize(image)[None])


@pytest.mark.parametrize("shape", SHAPES)
def test_an_opaque_image_is_resized_as_torchvision_does_to_1e_6(shape: tuple[int, int]) -> None:
    rgb = pixels(*shape, channels=3)
    wanted = v2.functional.resize(rgb.permute(2, 0, 1).float() / 255, [32, 32], antialias=True)
    assert torch.allclose(classifier().resize(rgb)[:3], wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_opaque_image_is_resized_as_pillow_does_to_one_grey_level(shape: tuple[int, int]) -> None:
    rgb = pixels(*shape, channels=3)
    reference = Image.fromarray(rgb.numpy()).resize((32, 32), Image.Resampling.BILINEAR)
    wanted = torch.from_numpy(np.asarray(reference).copy()).permute(2, 0, 1) / 255
    assert torch.allclose(classifier().resize(rgb)[:3], wanted, rtol=0, atol=1 / 255)


def test_colour_under_alpha_0_changes_nothing_at_all() -> None:
    model, image = classifier(), pixels(90, 120)
    image[..., 3] = 0
    image[20:70, 30:100, 3] = 255
    image[20:70, 30, 3] = 128  # half-covered edge
    other = image.clone()
    hidden = image[..., 3] == 0
    other[hidden] = pixels(90, 120, seed=1)[hidden]
    other[..., 3] = image[..., 3]
    assert not torch.equal(image, other)
    assert torch.equal(model.resize(image), model.resize(other))
    assert torch.equal(logits(model, image), logits(model, other))


def test_rgb_and_opaque_rgba_are_the_same_image() -> None:
    model, rgb = classifier(), pixels(50, 70, channels=3)
    rgba = torch.cat([rgb, torch.full((50, 70, 1), 255, dtype=torch.uint8)], -1)
    torch.testing.assert_close(model.resize(rgb), model.resize(rgba), rtol=0, atol=1e-6)


def test_the_ground_takes_the_mean_colour_of_the_tissue() -> None:
    image = torch.tensor([[[1.0, 0.0]], [[0.2, 0.0]], [[0.0, 0.0]], [[1.0, 0.0]]])[None]  # one of two pixels
    assert torch.allclose(fill_background(image), torch.tensor([[[1.0, 1.0]], [[0.2, 0.2]], [[0.0, 0.0]]]))


def test_tissue_of_one_colour_fills_the_whole_square_with_it() -> None:
    image = torch.zeros(64, 64, 4, dtype=torch.uint8)
    image[8:50, 9:40] = torch.tensor([255, 51, 0, 255], dtype=torch.uint8)
    filled = fill_background(classifier().resize(image)[None])[0]
    assert torch.allclose(filled, torch.tensor([1.0, 0.2, 0.0])[:, None, None].expand(3, 32, 32), atol=1e-6)


def test_an_image_without_tissue_gives_a_finite_answer() -> None:
    assert logits(classifier(), torch.zeros(40, 40, 4, dtype=torch.uint8)).isfinite().all()


def test_normalisation_is_timms_unless_the_recipe_gives_one() -> None:
    known = timm.get_pretrained_cfg(BACKBONE)
    assert known is not None
    assert classifier().mean.flatten().tolist() == pytest.approx(known.mean)
    given = classifier(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert given.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert given.std.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])


def test_the_new_last_layer_starts_near_zero() -> None:
    head = classifier(outputs=3).backbone.get_classifier()
    assert head.weight.std().item() == pytest.approx(HEAD_STD, rel=0.2)
    assert not head.bias.any()


def saved(path: Path, backbone: str = BACKBONE, **changes: object) -> Path:
    """The weights of a network of 1000 classes, in half precision."""
    torch.manual_seed(7)
    state = timm.create_model(backbone, num_classes=1000).state_dict()
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()} | changes
    if path.suffix == ".safetensors":
        save_file(halves, path)
    else:
        torch.save(halves, path)
    return path


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_half_precision_weights_are_widened_and_all_but_the_last_layer_loaded(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"weights.{suffix}")
    found = classifier(weights=str(path)).backbone.state_dict()
    torch.manual_seed(7)
    wanted = timm.create_model(BACKBONE, num_classes=1000).state_dict()
    for name, value in found.items():
        assert value.dtype == wanted[name].dtype
        if not name.startswith("classifier"):
            assert torch.equal(value, wanted[name].half().to(value.dtype)), name
    assert found["classifier.weight"].shape[0] == 1


def test_weights_are_not_looked_for_when_trained_ones_follow(tmp_path: Path) -> None:
    classifier(pretrained=False, weights=str(tmp_path / "gone.safetensors"))


@pytest.mark.parametrize("content", [[1, 2], {"conv_stem.weight": "text"}, {"state_dict": {}}, torch.zeros(3)])
def test_a_file_without_the_backbones_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(RecipeError, match=f"does not fit {BACKBONE}"):
        classifier(weights=str(tmp_path / "odd.pth"))


def test_weights_of_another_backbone_are_refused_by_the_name_of_a_tensor(tmp_path: Path) -> None:
    path = saved(tmp_path / "other.safetensors", backbone="test_resnet")
    with pytest.raises(RecipeError, match=r"does not fit test_efficientnet: \d+ of its .* conv_stem"):
        classifier(weights=str(path))


def test_a_missing_weights_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="which is not there"):
        classifier(weights=str(tmp_path / "gone.safetensors"))


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_file_that_is_no_weights_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(b"no weights at all")
    with pytest.raises(RecipeError, match="cannot be read as weights"):
        classifier(weights=str(path))


class Touch:
    """What a poisoned pickle holds: code that runs when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_weights_file_is_refused_and_never_runs(tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / "poisoned.pth"
    saved(path, poison=Touch(mark))
    with pytest.raises(RecipeError, match="cannot be read as weights"):
        classifier(weights=str(path))
    assert not mark.exists()
    pickle.loads(pickle.dumps(Touch(mark)))  # it would have run
    assert mark.exists()


def test_without_a_network_the_message_names_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise FileNotFoundError("huggingface.co")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(
        RecipeError,
        match=r"could not be fetched from https://huggingface.* or fetch .* model\.weights=FILE",
    ):
        classifier(weights="imagenet")


@pytest.mark.parametrize(
    "settings",
    [{"backbone": "no_such_net"}, {"backbone_args": {"no_such_argument": 1}}],
    ids=["name", "args"],
)
def test_what_timm_does_not_know_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=r"timm cannot make model\.backbone"):
        classifier(**settings)


def test_a_side_that_the_backbone_cannot_take_is_refused_before_training() -> None:
    with pytest.raises(RecipeError, match=r"test_vit3 cannot take images of model\.side 64.*img_size: 64"):
        classifier(backbone="test_vit3", side=64)
    classifier(backbone="test_vit3", side=64, backbone_args={"img_size": 64})


def test_the_network_of_colours_takes_the_place_of_a_backbone() -> None:
    model = classifier(backbone="tissue-colours", outputs=2)
    image = pixels(40, 50)
    assert logits(model, image).shape == (1, 2)
    assert sum(p.numel() for p in model.parameters()) < 25_000
    assert torch.allclose(logits(model, image), logits(model, image.flip(0)), atol=1e-4)


SMALL_SWIN = {"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "img_size": 64}


@pytest.mark.parametrize(
    ("backbone", "arguments", "channels"),
    [
        ("test_efficientnet", {}, 24 + 32),
        ("test_resnet", {}, 32 + 48),
        ("test_vit", {"img_size": 64}, 64 + 64),
        ("swin_tiny_patch4_window7_224", SMALL_SWIN, 12 + 24),
    ],
)
def test_the_first_two_stages_of_a_backbone_are_watched_with_their_channels(
    backbone: str, arguments: dict[str, object], channels: int
) -> None:
    model = classifier(backbone=backbone, side=64, backbone_args=arguments).eval()
    watched = Watched("", model.taps()).below("backbone")
    with torch.inference_mode(), watching(model, watched) as seen:
        model(torch.rand(2, 4, 64, 64))
        found = seen()
    assert found is not None
    assert (found.means.shape, found.spreads.shape) == ((2, 3 + channels), (2, 9 + channels))


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("backbone", [BACKBONE, "tissue-colours"])
def test_what_a_graph_looks_at_gives_the_same_logits(backbone: str, channels: int) -> None:
    model, image = classifier(backbone=backbone), pixels(50, 70, channels=channels)
    with torch.inference_mode():
        found, wanted = (model(prepare(image)[None]) for prepare in (model.look, model.resize))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)

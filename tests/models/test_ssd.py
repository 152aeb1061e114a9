from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from leanmed.errors import RecipeError
from leanmed.models.anchors import (
    BACKGROUND,
    NEITHER,
    choose_sides,
    coverage,
    decode_boxes,
    default_boxes,
    encode_boxes,
    match,
)
from leanmed.models.backbones import Backbone
from leanmed.models.inception_v2 import CHANNELS, InceptionV2
from leanmed.models.ssd import SSD
from leanmed.recipe.recipe import Model
from leanmed.tasks.detection.settings import Detector

# Millions of parameters: the backbone's maps up to stride 32; SSD and SSDlite with six maps and six boxes a position.
# facts measured elsewhere: 5.95, 4.08, 12.94, 26.9, 45.9 and 3.90, 2.27, 10.87, 24.55, 43.54.
PARAMETERS = {
    "mobilenetv1": (5.95, 3.90),
    "mobilenetv2": (4.08, 2.27),
    "inceptionv2": (12.94, 10.87),
    "resnet50": (26.9, 24.55),
    "resnet101": (45.9, 43.54),
}
PAPER: dict[str, Any] = {"neck": "none", "levels": (16, 32, 64, 128, 256, 512), "anchors_per_level": 6}
TINY = Model(backbone="test_efficientnet", weights="none", side=64)


def count(network: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("head", ["ssd", "ssdlite"])
def test_the_papers_networks_have_the_known_numbers_of_parameters_to_half_a_percent(name: str, head: Any) -> None:
    with torch.device("meta"):  # counted, not computed with
        network = SSD(Model(backbone=name, weights="none"), Detector(head=head, **PAPER))
    assert count(network) == pytest.approx(PARAMETERS[name][head == "ssdlite"], rel=0.005)


def test_inception_v2_has_the_papers_maps() -> None:
    network = InceptionV2((4, 8, 16, 32)).eval()
    maps = network(torch.zeros(1, 3, 64, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [(c, 64 // s, 96 // s) for s, c in CHANNELS.items()]
    assert count(network) == pytest.approx(10.16, abs=0.01)


@pytest.mark.parametrize("name", [*PARAMETERS, "test_efficientnet"])
def test_a_backbone_ends_with_the_deepest_map_asked_for(name: str) -> None:
    shallow, deep = (Backbone(Model(backbone=name, weights="none"), strides) for strides in ((4, 8), (4, 8, 16)))
    maps = shallow.eval()(torch.zeros(1, 3, 32, 32))
    assert [m.shape[2] for m in maps] == [8, 4]
    assert [m.shape[1] for m in maps] == shallow.channels == deep.channels[:2]
    assert count(shallow) < count(deep)


def test_a_backbone_that_has_no_such_maps_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"timm cannot make model.backbone 'resnet9'"):
        Backbone(Model(backbone="resnet9", weights="none"), (4, 8))
    with pytest.raises(RecipeError, match="no hub has"):
        Backbone(Model(backbone="inceptionv2", weights="imagenet"), (4, 8))


def test_weights_come_from_a_file_and_the_normalisation_from_the_recipe(tmp_path: Path) -> None:
    donor = Backbone(TINY, (4, 8))
    save_file(donor.maps.state_dict() | {"classifier.bias": torch.zeros(9)}, tmp_path / "w.safetensors")
    settings = {"weights": str(tmp_path / "w.safetensors"), "mean": (0.5,) * 3, "std": (0.25,) * 3}
    loaded = Backbone(TINY.model_copy(update=settings), (4, 8))
    images = torch.rand(1, 3, 32, 32)
    wanted = donor.eval().maps((images - 0.5) / 0.25)[1]
    assert torch.allclose(loaded.eval()(images)[1], wanted, atol=1e-6)
    with pytest.raises(RecipeError, match="does not fit resnet50"):
        Backbone(Model(backbone="resnet50", weights=settings["weights"]), (4, 8))


@pytest.mark.parametrize(
    "detector",
    [
        {"levels": (2,), "zoom": 1},
        {"levels": (4, 8), "zoom": 2, "head": "ssdlite"},
        {"levels": (8, 16, 32, 64), "neck": "none", "deepest": 16},
        {"levels": (4,), "deepest": 4},
    ],
)
def test_there_is_a_row_of_outputs_for_each_default_box(detector: dict[str, Any]) -> None:
    network = SSD(TINY, Detector(anchors_per_level=3, width=8, **detector)).eval()
    for side in (64, 128):
        outputs = network(torch.zeros(2, 1, side, side))
        assert outputs.shape == (2, len(network.default_boxes(side)), 5)


def test_a_neck_has_no_maps_coarser_than_the_backbones() -> None:
    with pytest.raises(ValueError, match="levels up to `deepest`, 8, as neck is fpn"):
        Detector(levels=(8, 16), deepest=8)
    with pytest.raises(ValueError, match="each twice the one before"):
        Detector(levels=(4, 16))


def test_an_image_is_padded_below_and_to_the_right_and_shrunk_only_if_it_is_larger() -> None:
    network = SSD(TINY, Detector(width=8))
    pixels = torch.randint(0, 256, (40, 50, 3), dtype=torch.uint8)
    square = network.frame(pixels)
    assert square.shape == (1, 64, 64)
    assert torch.allclose(square[0, :40, :50], pixels[..., 1] / 255, atol=1e-6)
    assert square[0, 40:].abs().max() == square[0, :, 50:].abs().max() == 0
    large = network.frame(torch.full((64, 128, 4), 51, dtype=torch.uint8))
    assert large.shape == (1, 64, 64)
    assert torch.allclose(large[0, :31], torch.tensor(0.2))
    assert large[0, 33:].abs().max() == 0


def test_three_slices_are_looked_at_if_the_recipe_says_so() -> None:
    pixels = torch.tensor([10, 20, 30], dtype=torch.uint8).expand(64, 64, 3)
    assert SSD(TINY, Detector(width=8, slices=3)).frame(pixels)[:, 0, 0].tolist() == pytest.approx(
        [10 / 255, 20 / 255, 30 / 255]
    )


def test_default_boxes_stand_around_the_centres_of_each_grid_in_the_outputs_order() -> None:
    boxes = default_boxes(8, [4, 8], torch.tensor([2.0, 4.0, 6.0, 8.0]))
    assert boxes[:4].tolist() == [[1, 1, 3, 3], [0, 0, 4, 4], [5, 1, 7, 3], [4, 0, 8, 4]]
    assert boxes[4].tolist() == [1, 5, 3, 7]
    assert boxes[8:].tolist() == [[1, 1, 7, 7], [0, 0, 8, 8]]
    some = torch.tensor([9, 4, 0])
    assert torch.equal(default_boxes(8, [4, 8], torch.tensor([2.0, 4.0, 6.0, 8.0]), some), boxes[some])


def test_offsets_are_those_of_equation_2_and_lead_back() -> None:
    defaults = torch.tensor([[0.0, 0, 10, 10], [10, 10, 14, 18]])
    boxes = torch.tensor([[1.0, 0, 11, 20], [9, 9, 15, 15]])
    offsets = encode_boxes(boxes, defaults)
    assert offsets[0].tolist() == pytest.approx([1, 5, 0, 5 * 0.693147], abs=1e-4)
    assert torch.allclose(decode_boxes(offsets, defaults), boxes, atol=1e-5)


def test_a_wild_offset_gives_no_infinite_box() -> None:
    assert decode_boxes(torch.full((1, 4), 1e4), torch.tensor([[0.0, 0, 1, 1]])).isfinite().all()


def test_default_boxes_match_from_the_threshold_on_and_each_box_has_its_best() -> None:
    defaults = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6], [50, 50, 60, 60], [0, 0, 10, 4], [0, 0, 10, 3]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [56, 50, 66, 60]])  # IoU 1, .6, 0, .4, .3; and .25 with the third
    assert match(boxes, defaults, 0.5, 0.4).tolist() == [0, 0, 1, NEITHER, BACKGROUND]
    assert match(boxes[:0], defaults, 0.5, 0.4).tolist() == [BACKGROUND] * 5


def test_the_share_of_boxes_that_default_boxes_match() -> None:
    defaults = default_boxes(64, [4], torch.tensor([4.0]))
    boxes = torch.tensor([[0.0, 0, 4, 4], [2, 2, 6, 6], [0, 0, 8, 8]])  # IoU 1, 1/7, 1/4
    assert coverage(boxes, defaults) == pytest.approx(1 / 3)
    assert coverage(boxes, defaults, 0.25) == pytest.approx(2 / 3)


def test_sides_are_chosen_in_equal_ratios_over_the_boxes_sizes() -> None:
    boxes = torch.tensor([[0.0, 0, s, s] for s in [4] * 50 + [16] * 50] + [[0, 0, 2, 8]] * 2)
    assert choose_sides(boxes, 3).tolist() == pytest.approx([4, 8, 16])

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import default_collate

from contracts.task_contract import MaskContract
from leanmed.exporting.export import export_model
from leanmed.figures.familiarity import Scale
from leanmed.models.familiarity import Descriptor, Familiarity, Watching, watching
from leanmed.runtime.predictor import open_session
from leanmed.tasks.base import Batch
from leanmed.tasks.recipes import check_recipe
from leanmed.tasks.segmentation.augment import OUTSIDE, augment_masks, change_values
from leanmed.tasks.segmentation.loss import dice_loss, mask_loss
from leanmed.tasks.segmentation.settings import Changes
from leanmed.tasks.segmentation.training import Segmentation

SIDE = 32


def segmentation(*labels: str, **sections: dict) -> Segmentation:
    torch.manual_seed(0)
    model = {"backbone": "test_efficientnet", "weights": "none", "side": SIDE, "backbone_args": {"width": 64}}
    recipe = {"name": "tiny", "task": "segmentation", "model": model, **sections}
    return Segmentation(check_recipe(recipe, "here"), labels)


def learnable(classes: int) -> Batch:
    """Eight squares of noise with a brighter part, whose colour tells the label."""
    generator = torch.Generator().manual_seed(1)
    colour = 0.3 * torch.rand(8, 3, SIDE, SIDE, generator=generator)
    masks = torch.zeros(8, SIDE, SIDE, dtype=torch.uint8)
    for k in range(8):
        label = k % classes
        place = (k, slice(6, 20), slice(4 + k, 16 + k))
        masks[place] = label + 1
        colour[k, label % 3, 6:20, 4 + k : 16 + k] += 0.6
    image = torch.cat([colour, torch.ones(8, 1, SIDE, SIDE)], 1)
    return Batch({"image": image}, {"mask": masks, "case": torch.arange(8)})


class TestOneLabel(MaskContract):
    @pytest.fixture
    def task(self) -> Segmentation:
        return segmentation("vessel")

    @pytest.fixture
    def batch(self) -> Batch:
        return learnable(1)


class TestThreeLabels(MaskContract):
    @pytest.fixture
    def task(self) -> Segmentation:
        return segmentation("a", "b", "c")

    @pytest.fixture
    def batch(self) -> Batch:
        return learnable(3)

    def test_a_temperature_decides_what_the_graph_and_the_manifest_say(self, task, batch) -> None:
        """Of several labels the likeliest is answered, whatever the temperature."""
        outputs = self.outputs(task, batch)
        before = [answer.mask for answer in task.answers(outputs)]
        task.decide_by(30.0, None)
        assert all(np.array_equal(one, other.mask) for one, other in zip(before, task.answers(outputs), strict=True))
        assert task.manifest()["threshold"] is None


def test_a_wide_image_is_padded_below_and_its_mask_comes_back_in_its_own_frame() -> None:
    task = segmentation("vessel").eval()
    image = task.squared(torch.full((10, 40, 3), 255, dtype=torch.uint8))
    assert image.shape == (4, SIDE, SIDE)
    assert image[3, :7].min() == pytest.approx(1)
    assert image[3, 9:].max() == 0
    probabilities = torch.zeros(1, SIDE, SIDE)
    probabilities[0, :8, 16:] = 1.0  # the right half of the image, which fills the first quarter of the rows
    mask, confidence = task.in_image(probabilities, (10, 40))
    assert mask.shape == confidence.shape == (10, 40)
    assert mask[:, :19].max() == 0
    assert mask[:8, 21:].min() == 1


def test_an_image_is_normalized_by_its_own_pixels_and_not_by_what_pads_it() -> None:
    task = segmentation("vessel")
    colour = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    alone = task.seen({"image": torch.cat([colour, torch.ones(1, 1, 8, 8)], 1)})
    padded = task.seen({"image": F.pad(torch.cat([colour, torch.ones(1, 1, 8, 8)], 1), (0, 8, 0, 8))})
    assert torch.allclose(alone, padded[..., :8, :8], atol=1e-5)
    assert alone.mean().abs() < 1e-5
    assert padded[..., 8:, :].abs().max() == 0


def test_one_channel_is_the_middle_one() -> None:
    task = segmentation("gland", data={"kind": "intensities"}, segmenter={"slices": 1})
    image = torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, 2, 2)
    assert task.seen({"image": image}).unique().tolist() == [1.0]


def test_mr_is_kept_in_half_precision_and_seen_as_it_is() -> None:
    task = segmentation("gland", data={"kind": "intensities"})
    prepared = task.prepare(np.full((20, 20, 3), -1.5, np.float32))
    assert prepared["image"][:3].unique().tolist() == [-1.5]
    assert task.keep(prepared)["image"].dtype == torch.float16


def test_image_and_mask_move_together_and_nothing_is_known_of_what_comes_in() -> None:
    recipe = segmentation("vessel", segmenter={"crop": 32, "crops": 3}).settings
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.uint8)
    masks[:, 8:20, 10:24] = 1
    images = torch.cat([masks[:, None].float().expand(-1, 3, -1, -1), torch.ones(2, 1, SIDE, SIDE)], 1)
    moved, labels = augment_masks(images, masks, recipe, 3)
    assert moved.shape == (6, 4, 32, 32)
    assert labels.shape == (6, 32, 32)
    known = labels != OUTSIDE
    assert (moved[:, 3][~known] < 0.75).all()
    inside = (moved[:, 3] > 0.99) & known
    agree = ((moved[:, 0] > 0.5) == (labels == 1))[inside].float().mean()
    assert agree > 0.98


def test_crops_of_a_larger_image_are_parts_of_it() -> None:
    sections = {"segmenter": {"crop": 32, "crops": 8}, "augment": {"rotation": 0, "shift": 0, "scale": [1, 1]}}
    model = {"backbone": "enet", "weights": "none", "side": 64}
    recipe = check_recipe({"name": "t", "task": "segmentation", "model": model, **sections}, "here")
    ramp = torch.arange(64.0).expand(1, 4, 64, 64).clone()
    ramp[:, 3] = 1
    moved, _ = augment_masks(ramp, torch.zeros(1, 64, 64, dtype=torch.uint8), recipe, 0)
    steps = moved[:, 0, 4:-4, 4:-4].diff(dim=-1).abs()
    assert torch.allclose(steps, torch.ones_like(steps), atol=0.01), "a crop keeps the image's scale"
    assert moved[:, 0, 0, 0].unique().numel() > 4, "and lies elsewhere each time"


def test_a_crop_is_normalized_as_the_image_that_it_is_of() -> None:
    still = {"rotation": 0, "shift": 0, "scale": [1, 1], "brightness": 0, "tint": 0}
    still |= {"horizontal_flip": 0, "vertical_flip": 0, "quarter_turns": False}
    model = {"backbone": "enet", "weights": "none", "side": 64}
    task = segmentation("vessel", model=model, segmenter={"crop": 32, "crops": 4}, augment=still)
    colour = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    colour[:, :, :, 32:] *= 0.2  # a dark half
    image = torch.cat([colour, torch.ones(2, 1, 64, 64)], 1)
    whole = task.seen({"image": image})
    batch = Batch({"image": image}, {"mask": torch.zeros(2, 64, 64, dtype=torch.uint8), "case": torch.arange(2)})
    crops = task.seen(task.augment(batch, 0).inputs)
    for k, crop in enumerate(crops):
        values = whole[k // 4].flatten()
        assert torch.cdist(crop[:, 8:24:5, 8:24:5].reshape(-1, 1), values[:, None]).min(1).values.max() < 0.1
    assert crops.mean((1, 2, 3)).abs().max() > 0.2, "not each by itself"


def test_a_field_changes_what_has_the_mean_value_and_keeps_the_order_of_dark_and_bright() -> None:
    images = torch.linspace(-1, 2, 256).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    changed = change_values(images, torch.ones(1, 1, 16, 16), Changes(bias=0.5), torch.Generator().manual_seed(0))
    factor = (changed - images.min()) / (images - images.min()).clamp_min(1e-6)
    assert factor.flatten(2)[..., 1:].min() > 0.3
    assert (changed - images).abs().flatten(2)[..., 80:90].max() > 0.01  # values near 0


def test_each_image_has_a_resolution_of_its_own() -> None:
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).expand(24, -1, -1, -1)
    changed = change_values(images, torch.ones(24, 1, 32, 32), Changes(blur=1.0), torch.Generator().manual_seed(0))
    spreads = changed.std((1, 2, 3))
    assert spreads.max() > 1.3 * spreads.min()


@pytest.mark.parametrize("change", ["gamma", "bias", "noise", "blur"])
def test_each_change_of_values_changes_them_and_leaves_what_is_outside(change: str) -> None:
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    alpha = torch.ones(2, 1, 16, 16)
    alpha[..., 12:] = 0
    changed = change_values(images * alpha, alpha, Changes(**{change: 0.9}), torch.Generator().manual_seed(1))
    assert changed[..., 12:].abs().max() == 0
    assert (changed - images * alpha).abs().max() > 0.05
    same = change_values(images * alpha, alpha, Changes(), torch.Generator().manual_seed(1))
    assert torch.equal(same, images * alpha)


def test_dice_by_hand() -> None:
    """One pixel of probability 1/2 that is there, one of 1/2 that is not: 1 - (2 x .5 + 1) / (1 + 1 + 1)."""
    logits, truth = torch.zeros(1, 1, 1, 2), torch.tensor([[[1, 0]]])
    known = torch.ones(1, 1, 2, dtype=torch.bool)
    assert dice_loss(logits, truth, known).item() == pytest.approx(1 - 2 / 3)


def test_cross_entropy_and_focal_by_hand_leave_out_what_is_unknown() -> None:
    logits = torch.tensor([0.0, 100.0]).view(1, 1, 1, 2)
    masks = torch.tensor([[[1, OUTSIDE]]], dtype=torch.uint8)
    assert mask_loss(logits, masks, "cross-entropy").item() == pytest.approx(np.log(2))
    assert mask_loss(logits, masks, "focal").item() == pytest.approx(0.25 * np.log(2))
    both = mask_loss(logits, masks, "dice+cross-entropy").item()
    assert both == pytest.approx(np.log(2) + 1 - 2 / 2.5)


def test_the_score_of_a_case_is_that_of_all_its_slices() -> None:
    task = segmentation("gland")
    logits = torch.tensor([[3.0, -3.0], [-3.0, -3.0]]).view(2, 1, 1, 2)  # probabilities below .05 are never marked
    masks = torch.tensor([[[1, 0]], [[1, 0]]], dtype=torch.uint8)
    scorer = task.scorer()
    scorer.add({"logits": logits}, {"mask": masks, "case": torch.tensor([7, 7])})
    assert scorer.figures()["dice"] == pytest.approx(2 / 3)
    scorer = task.scorer()
    scorer.add({"logits": logits}, {"mask": masks, "case": torch.tensor([7, 8])})
    assert scorer.figures()["dice"] == pytest.approx(1 / 2)


def test_a_network_whose_probabilities_stay_low_is_scored_at_the_threshold_that_suits_it() -> None:
    """Probabilities of .2 where the vessel is and .1 elsewhere mark it exactly from .15 on."""
    task = segmentation("vessel")
    logits = torch.logit(torch.tensor([0.2, 0.1, 0.1])).view(1, 1, 1, 3)
    scorer = task.scorer()
    scorer.add({"logits": logits}, {"mask": torch.tensor([[[1, 0, 0]]], dtype=torch.uint8), "case": torch.tensor([1])})
    assert scorer.figures()["dice"] == 1


@pytest.mark.parametrize("slices", [1, 3])
def test_intensities_are_told_to_be_familiar_by_the_graph_as_by_its_module(slices: int) -> None:
    task = segmentation("gland", data={"kind": "intensities"}, segmenter={"slices": slices}).eval()
    rng = np.random.default_rng(0)
    volumes = [rng.normal(size=(40, 50, 3)).astype(np.float32) for _ in range(30)]
    watched = task.watched()

    def seen_of(pixels: np.ndarray) -> Descriptor:
        with torch.inference_mode(), watching(task, watched) as seen:
            task(default_collate([task.prepare(pixels)]))
            return seen()

    parts = [seen_of(pixels) for pixels in volumes]
    fitted = Familiarity.fit(Descriptor(*(torch.cat(own) for own in zip(*parts, strict=True))))
    distances = [float(fitted.distance(part)) for part in parts]
    module = Watching(task.graph(), task, watched, fitted.scaled(Scale.of(distances))).eval()
    session = open_session(export_model(module, ["mask", "confidence"], "float32"))
    told = [session.run(["familiar"], {"pixels": pixels})[0].item() for pixels in (*volumes[:2], 5 * volumes[0])]
    with torch.inference_mode():
        wanted = [module(torch.from_numpy(pixels))[-1].item() for pixels in volumes[:2]]
    assert told[:2] == pytest.approx(wanted, abs=0.01)
    assert told[2] == pytest.approx(0.0, abs=1e-6), "values five times as large are unlike those of any image"

"""Random crops of a batch of images, turned, flipped and zoomed, with their boxes.

Only changes that map boxes to boxes are made. Drawing is apart from applying, and one seed is one draw.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leanmed.recipe.recipe import ORIGINS
from leanmed.tasks.augment import draw_gains, move
from leanmed.tasks.detection.settings import DetectionRecipe as Recipe

TURNS = torch.tensor([[[1.0, 0], [0, 1]], [[0, -1], [1, 0]], [[-1, 0], [0, -1]], [[0, 1], [-1, 0]]])


@dataclass(frozen=True)
class Crops:
    """Where the crops of a batch lie: a crop's point u, in pixels from its middle, shows the image's centre + matrix u.

    Args:
        matrix: (b, 2, 2) quarter turns and flips, over the zoom.
        centre: (b, 2) x, y in pixels of the image.
        side: of the crops, in pixels.
        origin: where in a pixel its whole-numbered coordinates lie: 0 for its corner, .5 for its centre. Taken for the
            other, a box would move by half a pixel to a side that each flip changes.
    """

    matrix: Tensor
    centre: Tensor
    side: int
    origin: float

    def images(self, images: Tensor) -> Tensor:
        """(b, c, s, s) to (b, c, side, side); what lies outside is 0."""
        span = images.shape[-1]
        middle = 2 * self.centre / span - 1  # from -1 to 1, as `affine_grid` has it
        matrices = torch.cat([self.matrix * self.side / span, middle[..., None]], 2)
        return move(images, matrices, (self.side, self.side))

    def boxes(self, boxes: Tensor) -> Tensor:
        """(b, m, 4) xyxy, cut off at the crop's edge; NaN for those whose centre lies outside."""
        inverse = self.matrix.inverse()
        from_centre = boxes.view(*boxes.shape[:2], 2, 2) + self.origin - self.centre[:, None, None]
        corners = from_centre @ inverse.mT[:, None]  # (b, m, 2, 2)
        moved = torch.cat([corners.amin(2), corners.amax(2)], 2)  # amin keeps NaN
        outside = ((moved[..., :2] + moved[..., 2:]) / 2).abs().amax(2) >= self.side / 2
        cut = (moved + self.side / 2 - self.origin).clamp(0, self.side)
        return cut.masked_fill(outside[..., None], torch.nan)


def draw_crops(boxes: Tensor, side: int, recipe: Recipe, generator: torch.Generator) -> Crops:
    """Crops for images of side x side with boxes (b, m, 4): with a random object somewhere in it, or of any place."""
    detector, settings = recipe.detector, recipe.augment
    count = len(boxes)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(count, *shape).uniform_(low, high, generator=generator)

    zoom = uniform(*settings.scale, 1)
    reach = detector.crop / zoom / 2  # from the crop's middle to its edge, in pixels of the image
    there = boxes.isfinite().all(2).float()
    choice = torch.multinomial(there + (there.sum(1, keepdim=True) == 0), 1, generator=generator)
    chosen = boxes.gather(1, choice[..., None].expand(-1, 1, 4))[:, 0]  # NaN where the image is empty
    near = (chosen[:, :2] + chosen[:, 2:]) / 2 + 0.9 * reach * uniform(-1, 1, 2)
    anywhere = uniform(0, side, 2)
    on_object = (uniform(0, 1, 1) < detector.crop_on_object) & chosen[:, :1].isfinite()
    turn = TURNS[torch.randint(4 if settings.quarter_turns else 1, (count,), generator=generator)]
    flips = [(uniform(0, 1) < p).float() for p in (settings.horizontal_flip, settings.vertical_flip)]
    matrix = turn * (1 - 2 * torch.stack(flips, 1))[:, None] / zoom[..., None]
    return Crops(matrix, torch.where(on_object, near, anywhere), detector.crop, ORIGINS[recipe.data.box_origin])


def augment_boxes(images: Tensor, boxes: Tensor, recipe: Recipe, seed: int) -> tuple[Tensor, Tensor]:
    """Crop images (b, c, s, s) in [0, 1] with boxes (b, m, 4), `crops` times each, and change their brightness."""
    generator = torch.Generator().manual_seed(seed)
    images, boxes = (x.repeat_interleave(recipe.detector.crops, 0) for x in (images, boxes))
    crops = draw_crops(boxes.cpu(), images.shape[-1], recipe, generator)
    crops = replace(crops, matrix=crops.matrix.to(images), centre=crops.centre.to(images))
    gains = draw_gains(len(images), recipe.augment, generator)[:, : images.shape[1]].to(images)
    return (crops.images(images) * gains).clamp(0, 1), crops.boxes(boxes)

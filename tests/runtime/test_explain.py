"""Saliency by covering: numbers worked by hand, images whose signal's place is known, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from PIL import Image

import leanmed
from explained_fixtures import BOX, HEIGHT, RIGHT, WIDTH, box_graph, bright_square, in_square, mask_graph, square_graph
from leanmed.errors import ArtifactError, DataError, UnsupportedInput
from leanmed.manifest import Input
from leanmed.runtime.deletion import deletion, insertion, random_values
from leanmed.runtime.explain import (
    ABOUT,
    Saliency,
    covered,
    explain,
    followed,
    grid,
    mean_colour,
    occlusion,
    random_masks,
    smooth,
    tents,
)


@pytest.fixture
def predictor(make_artifact: Callable[..., Path]) -> leanmed.Predictor:
    """Its probability of `anemic` is the brightness of the square."""
    return leanmed.load(make_artifact(graph=square_graph()))


def row(*values: int, channels: int = 1) -> NDArray[np.uint8]:
    """An image of one row."""
    return np.repeat(np.uint8(values)[None, :, None], channels, axis=2)


def first(pixels: NDArray[Any]) -> float:
    """A score: the first pixel's value, 1 for 100."""
    return float(pixels[0, 0, 0]) / 100


# The numbers


def test_a_pixel_has_the_mean_fall_of_the_covers_over_it() -> None:
    """Two pixels are two cells, whose three ends get a cover in each of two rows: over the first, both, the second."""
    values, whole, count = occlusion(first, row(200, 100), cells=2, canvas=np.array([150.0]))
    assert (whole, count) == (2, 6)
    assert values == pytest.approx(np.array([[0.5, 0.25]]))  # the first falls from 2 to 1.5


def test_a_score_that_rises_has_a_negative_value() -> None:
    values, *_ = occlusion(lambda pixels: -first(pixels), row(200, 100), cells=2, canvas=np.array([150.0]))
    assert values == pytest.approx(np.array([[-0.5, -0.25]]))


@pytest.mark.parametrize(
    ("size", "cells", "expected"),
    [((96, 128), 8, (6, 8)), ((128, 96), 8, (8, 6)), ((3, 5), 8, (3, 5)), ((1, 1), 8, (1, 1)), ((10, 1000), 8, (1, 8))],
)
def test_cells_are_square_and_never_smaller_than_a_pixel(
    size: tuple[int, int], cells: int, expected: tuple[int, int]
) -> None:
    assert grid(np.zeros((*size, 3), np.uint8), cells) == expected


@pytest.mark.parametrize("cells", [0, -1])
def test_less_than_a_cell_is_refused(cells: int, refused: Callable[..., Any]) -> None:
    with refused(DataError, "expected at least one cell", str(cells)):
        occlusion(first, row(1, 2), cells=cells)


@pytest.mark.parametrize(("length", "cells"), [(1, 1), (5, 5), (7, 3), (128, 8)])
def test_tents_add_up_to_one_on_every_pixel(length: int, cells: int) -> None:
    assert tents(length, cells).sum(axis=1) == pytest.approx(np.ones(length))


def test_half_a_cover_is_half_way_to_the_colour_behind() -> None:
    mixed = covered(row(200, 100), np.array([150.0]), np.array([[0.5, 1.0]]))
    assert mixed[0, :, 0].tolist() == [175, 150]
    assert mixed.dtype == np.uint8


def test_a_smooth_image_is_made_of_means_around_the_ends_of_cells() -> None:
    """Means around the five ends are 100, 50, 0, 0, 0, and each pixel lies half way between two ends."""
    assert smooth(row(100, 0, 0, 0), cells=4)[0, :, 0] == pytest.approx([75, 25, 0, 0])


def test_deletion_covers_what_matters_most_first() -> None:
    """The mean is 25: the first pixel falls from 1 to .25 in the first of four steps, or in the last one."""
    pixels, ranks = row(100, 0, 0, 0), np.array([[3.0, 2.0, 1.0, 0.0]])
    best, worst = (deletion(first, pixels, sign * ranks, steps=4) for sign in (1, -1))
    assert best.shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert best.scores.tolist() == [1, 0.25, 0.25, 0.25, 0.25]
    assert worst.scores.tolist() == [1, 1, 1, 1, 0.25]
    assert best.area == pytest.approx(0.625 * 0.25 + 0.25 * 0.75)
    assert worst.area == pytest.approx(0.75 + 0.625 * 0.25)


def test_insertion_gives_back_what_matters_most_first() -> None:
    """Three cells for four pixels: the first is 5/8 of the mean around the first end, 100, and 3/8 of 300/11."""
    pixels, ranks = row(100, 0, 0, 0), np.array([[3.0, 2.0, 1.0, 0.0]])
    best, worst = (insertion(first, pixels, sign * ranks, steps=4) for sign in (1, -1))
    assert best.scores.tolist() == [0.73, 1, 1, 1, 1]
    assert worst.scores.tolist() == [0.73, 0.73, 0.73, 0.73, 1]


def test_a_curve_has_no_more_steps_than_pixels() -> None:
    assert deletion(first, row(100, 0), np.array([[1.0, 0.0]]), steps=20).shares.tolist() == [0, 0.5, 1]


def test_random_masks_give_the_mean_score_of_those_that_leave_a_pixel_bare() -> None:
    """Two rows of three ends of cells are drawn; a pixel is as bare as the mean of the four ends around it."""
    pixels, rng = row(200, 100), np.random.default_rng(7)
    behind = smooth(pixels)[0, 0, 0]
    drawn = [rng.random((2, 3)) < 0.5 for _ in range(5)]
    bare = np.array([[ends[:, :2].mean(), ends[:, 1:].mean()] for ends in drawn])
    scores = np.array([round(behind + own * (200 - behind)) / 100 for own in bare[:, 0]])
    expected = [(scores @ bare[:, k]) / bare[:, k].sum() - scores.mean() for k in (0, 1)]
    assert random_masks(first, pixels, masks=5, seed=7)[0] == pytest.approx(expected)


def test_less_than_a_random_mask_is_refused(refused: Callable[..., Any]) -> None:
    with refused(DataError, "expected at least one random mask, got -1"):
        random_masks(first, row(1, 2), masks=-1)


# The place is known


def test_the_peak_lies_in_the_square_that_the_probability_depends_on(predictor: leanmed.Predictor) -> None:
    found = predictor.explain(bright_square(), masks=0)
    assert found.values.shape == (HEIGHT, WIDTH)
    assert in_square(found.values)
    assert (found.score, found.name) == (1.0, "Probability of anemic")
    assert found.covers == 5 * 7
    beyond = found.values[:, RIGHT + 2 * WIDTH // 6 + 1 :]  # no cover there reaches the square, which ends at RIGHT
    assert (beyond == 0).all()
    assert found.values.max() > 0.3


def test_random_masks_find_the_square_too(predictor: leanmed.Predictor) -> None:
    found = predictor.explain(bright_square(), masks=100)
    assert in_square(found.values, margin=8)
    assert (found.covers, found.random) == (100, True)
    pixels = predictor.frame(bright_square()).pixels
    _, score = followed(predictor, pixels)
    chance = max(insertion(score, pixels, random_values(pixels, seed=seed)).area for seed in range(5))
    assert insertion(score, pixels, found.values).area > chance + 0.02
    assert found.reading.startswith("Among random covers: orange left bare, up to 0.")
    assert (predictor.explain(bright_square(), masks=100).values == found.values).all(), "the same masks each time"


def test_covering_a_dark_square_lets_the_probability_rise(predictor: leanmed.Predictor) -> None:
    pixels = 255 - bright_square()
    found = predictor.explain(pixels, masks=0)
    assert in_square(-found.values)
    assert found.values.max() <= 0


def test_deletion_falls_sooner_and_insertion_rises_sooner_than_in_random_order(predictor: leanmed.Predictor) -> None:
    pixels = predictor.frame(bright_square()).pixels
    _, score = followed(predictor, pixels)
    values = explain(predictor, pixels, masks=0).values
    gone, back = deletion(score, pixels, values).area, insertion(score, pixels, values).area
    chance = [random_values(pixels, seed=seed) for seed in range(5)]
    assert gone < min(deletion(score, pixels, other).area for other in chance) - 0.03
    assert back > max(insertion(score, pixels, other).area for other in chance) + 0.02
    assert gone < 0.5 < 0.9 < back


def test_boxes_are_explained_by_the_score_of_the_best_one(make_artifact: Callable[..., Path]) -> None:
    about = {"task": "detection", "labels": ("nodule",), "main_score": "ap50"}
    predictor = leanmed.load(make_artifact(graph=box_graph(), **about))
    assert predictor.predict(bright_square()).boxes == (BOX,)
    found = predictor.explain(bright_square())
    assert (found.score, found.name) == (1.0, "Score of the best box (nodule)")
    assert in_square(found.values)


@pytest.mark.parametrize(("dtype", "kind"), [("int16", TensorProto.INT16), ("float32", TensorProto.FLOAT)])
def test_intensities_are_covered_by_their_mean(dtype: str, kind: int, make_artifact: Callable[..., Path]) -> None:
    about = Input(kind="intensities", dtype=dtype, side=32)
    predictor = leanmed.load(make_artifact(graph=square_graph(kind, 2550.0), input=about))
    image = bright_square()[..., 0].astype(dtype) * 10
    found = predictor.explain(image)
    assert found.values.shape == (HEIGHT, WIDTH)
    assert in_square(found.values)
    assert found.draw(image[..., None]).dtype == np.uint8


def test_a_file_that_is_decoded_at_a_reduced_scale_is_explained_in_its_own_frame(
    make_artifact: Callable[..., Path], tmp_path: Path
) -> None:
    predictor = leanmed.load(make_artifact(graph=square_graph(), input=Input(side=24)))
    large = Image.fromarray(bright_square()).resize((4 * WIDTH, 4 * HEIGHT), Image.Resampling.NEAREST)
    large.save(tmp_path / "large.jpg", quality=95)
    assert predictor.frame(tmp_path / "large.jpg").pixels.shape[:2] == (HEIGHT, WIDTH)
    found = predictor.explain(tmp_path / "large.jpg")
    assert found.values.shape == (4 * HEIGHT, 4 * WIDTH)
    assert in_square(found.values[::4, ::4])


# Alpha


def test_nothing_is_covered_where_alpha_leaves_the_ground_out() -> None:
    pixels = bright_square(4)
    pixels[:, 64:, 3], pixels[:, 64:, :3] = 0, 7  # ground of another colour
    pixels[60:, :64, 3] = 100
    shown: list[NDArray[Any]] = []
    values, _, count = occlusion(lambda own: float(shown.append(own.copy()) or 0), pixels)
    curve = np.random.default_rng(0).random((HEIGHT, WIDTH))
    deletion(lambda own: float(shown.append(own.copy()) or 0), pixels, curve)
    insertion(lambda own: float(shown.append(own.copy()) or 0), pixels, curve)
    spread = random_masks(lambda own: float(shown.append(own.copy()) or own[0, 0, 0]), pixels, masks=10)
    assert (spread[:, 64:] == 0).all()
    assert all((own[..., 3] == pixels[..., 3]).all() for own in shown)
    assert all((own[:, 64:] == pixels[:, 64:]).all() for own in shown)
    assert (values[:, 64:] == 0).all()
    assert count == 5 * 4, "covers over the ground alone are left out"


def test_the_colour_of_a_cover_is_that_of_the_tissue_alone() -> None:
    pixels = np.full((4, 4, 4), 200, np.uint8)
    pixels[:2, :, :3] = 10
    pixels[..., 3] = np.repeat([0, 255], 2)[:, None]
    assert mean_colour(pixels).tolist() == [200, 200, 200]
    assert smooth(pixels)[2:] == pytest.approx(200)
    pixels[..., 3] = 0
    assert mean_colour(pixels).tolist() == [105, 105, 105], "of an image without tissue, the mean of all"


def test_an_image_that_alpha_leaves_out_altogether_has_no_place(tiny_artifact: Path) -> None:
    found = leanmed.load(tiny_artifact).explain(np.zeros((20, 20, 4), np.uint8), masks=0)
    assert found.covers == 0
    assert (found.values == 0).all()
    assert deletion(first, np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2))).area == 0


# Edges


def test_an_image_without_a_signal_says_so(predictor: leanmed.Predictor) -> None:
    plain = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    found = predictor.explain(plain)
    assert np.abs(found.values).max() < 1e-12
    picture = found.draw(plain)
    width = 512  # of each half, which are alike: nothing is coloured
    assert (picture[:384, :width] == picture[:384, width : 2 * width]).all()
    assert found.reading == "No part changes it by 0.01 or more: no place stands out."


@pytest.mark.parametrize("masks", [0, 20])
@pytest.mark.parametrize("size", [(8, 8), (8, 100), (9, 11)])
def test_an_image_smaller_than_the_grid_is_explained_too(
    masks: int, size: tuple[int, int], tiny_artifact: Path
) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (*size, 3)).astype(np.uint8)
    found = leanmed.load(tiny_artifact).explain(pixels, masks=masks, cells=40)
    assert found.values.shape == size
    assert np.isfinite(found.values).all()
    assert found.draw(pixels).shape[2] == 3


def test_a_finer_grid_takes_more_answers(predictor: leanmed.Predictor) -> None:
    assert predictor.explain(bright_square(), masks=0, cells=4).covers == 4 * 5
    assert predictor.explain(bright_square(), masks=0, cells=12).covers == 10 * 13


def test_the_answer_is_not_changed_by_explaining_it(predictor: leanmed.Predictor) -> None:
    pixels = bright_square(4)
    before = pixels.copy()
    predictor.explain(pixels)
    assert (pixels == before).all()


# The picture


def test_the_picture_shows_the_image_beside_where_it_matters_and_says_what_it_does_not_mean(
    predictor: leanmed.Predictor,
) -> None:
    pixels = bright_square()
    found = predictor.explain(pixels, masks=0)
    picture = found.draw(pixels)
    assert picture.shape[1] >= 2 * 512
    left, right = picture[:384, :512].astype(int), picture[:384, 512:1024].astype(int)
    grey = right.max(axis=2) - right.min(axis=2)
    square, corner = np.s_[4 * 44 : 4 * 52, 4 * 30 : 4 * 42], np.s_[:80, -80:]
    assert (right[square][..., 0] > right[square][..., 2] + 60).all(), "orange over the square"
    assert grey[corner].max() == 0, "and nothing far from it"
    assert left[square].min() > 250
    assert found.reading == f"Orange covered, up to {found.values.max():.3f} less; blue covered, up to 0.000 more."
    assert "not what is ill" in ABOUT


# What is refused


def test_a_mask_shows_its_place_itself(make_artifact: Callable[..., Path], refused: Callable[..., Any]) -> None:
    about = {"task": "segmentation", "labels": ("vessel",), "main_score": "dice"}
    predictor = leanmed.load(make_artifact(graph=mask_graph(), **about))
    assert predictor.predict(bright_square()).pixels["vessel"] == 16 * 24
    with refused(ArtifactError, "expected an artifact whose answer is a score", "segmentation", "--draw draws it"):
        predictor.explain(bright_square())


def test_a_scan_is_not_explained(make_artifact: Callable[..., Path], refused: Callable[..., Any]) -> None:
    predictor = leanmed.load(make_artifact(input=Input(side=32, kind="slice", slices=1)))
    with refused(UnsupportedInput, "chest.mhd", "expected single images to explain, got a whole scan"):
        predictor.explain("chest.mhd")


def test_values_are_placed_in_a_turned_frame() -> None:
    found = Saliency(np.array([[1.0, 2.0, 3.0]]), 0.5, "x", 1, random=False)
    turned = found.placed(lambda points: points[:, ::-1] * 2)
    assert turned.values.tolist() == [[1, 1], [1, 1], [2, 2], [2, 2], [3, 3], [3, 3]]

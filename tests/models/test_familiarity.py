"""What is seen of a network, how far an image is from others, and the output that tells of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from leanmed.exporting.export import export_model
from leanmed.figures.familiarity import Scale
from leanmed.models.familiarity import (
    LEAST_SPREAD,
    TINY,
    Descriptor,
    Familiarity,
    Tap,
    Watched,
    Watching,
    watching,
)
from leanmed.runtime.predictor import open_session
from leanmed.tasks.base import Task
from leanmed.tasks.building import build_task
from leanmed.tasks.recipes import check_recipe

SCALE = Scale((0.5, 1.0, 2.0, 4.0), (1.0, 0.5, 0.1, 0.0), 20)


def seen_by(network: nn.Module, watched: Watched, *given: Tensor) -> Descriptor:
    with torch.inference_mode(), watching(network, watched) as seen:
        network(*given)
        found = seen()
    assert found is not None
    return found


def test_the_image_gives_means_spreads_and_how_much_neighbours_differ() -> None:
    image = torch.tensor([[[[0.0, 2.0], [4.0, 6.0]]]])
    found = seen_by(nn.Sequential(nn.Identity()), Watched("0", ()), image)
    assert found.means.tolist() == [[3.0]]
    spread, along, across = found.spreads[0].tolist()
    assert (spread, along, across) == pytest.approx((np.sqrt(5.0), 2.0, 4.0))


def test_a_network_of_which_all_was_seen_is_stopped_where_nothing_else_is_asked_of_it() -> None:
    class Late(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            raise AssertionError("nobody watches what comes this late")

    early = nn.Conv2d(3, 4, 3)
    image, watched = torch.rand(2, 3, 8, 8), Watched("", (Tap("0"),))
    whole = seen_by(nn.Sequential(early, nn.ReLU()), watched, image)
    network = nn.Sequential(early, Late())
    with torch.inference_mode(), watching(network, watched, no_further=True) as seen:
        network(image)
    found = seen()
    assert found is not None
    assert torch.equal(found.means, whole.means)
    assert torch.equal(found.spreads, whole.spreads)
    with pytest.raises(AssertionError, match="nobody watches"), watching(network, watched):
        network(image)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        (lambda maps: maps, 1),
        (lambda maps: maps.permute(0, 2, 3, 1), -1),
        (lambda maps: maps.flatten(2).mT, 1),
        (lambda maps: [maps, maps[..., ::2] * 7], 1),
    ],
)
def test_channels_are_pooled_over_places_whatever_the_order_of_the_axes(
    shape: Callable[[Tensor], object], axis: int
) -> None:
    class Shaped(nn.Module):
        def forward(self, image: Tensor) -> object:
            return shape(2 * image)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.early = nn.Identity(), Shaped()

        def forward(self, image: Tensor) -> object:
            return self.early(self.stem(image))

    image = torch.rand(2, 3, 4, 4)
    found = seen_by(Network(), Watched("stem", (Tap("early", axis),)), image)
    assert torch.allclose(found.means, torch.cat([image.mean((2, 3)), 2 * image.mean((2, 3))], 1))
    spreads = image.std((2, 3), correction=0)
    assert torch.allclose(found.spreads[:, :3], spreads)
    assert torch.allclose(found.spreads[:, 9:], 2 * spreads)


def test_a_module_without_maps_gives_nothing_and_no_hook_stays() -> None:
    network = nn.Sequential(nn.Identity(), nn.Flatten())
    image = torch.rand(2, 3, 4, 4)
    found = seen_by(network, Watched("0", (Tap("1"),)), image)
    assert found.means.shape == (2, 3 + 48), "what has no places is its own mean"
    assert found.spreads.shape == (2, 9)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def made_descriptors(n: int, seed: int, means: int = 6, spreads: int = 4) -> Descriptor:
    """Correlated means, and spreads that are positive."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(3, means + spreads, generator=torch.Generator().manual_seed(99))
    values = torch.randn(n, 3, generator=generator) @ mixing
    values = values + 0.3 * torch.randn(n, means + spreads, generator=generator)
    return Descriptor(values[:, :means], (0.3 * values[:, means:]).exp())


def test_the_distance_is_that_of_mahalanobis_under_the_fitted_covariance() -> None:
    training, new = made_descriptors(200, 0), made_descriptors(5, 1)
    found = Familiarity.fit(training)

    def values(seen: Descriptor) -> np.ndarray:
        floor = LEAST_SPREAD * training.spreads.double().mean(0) + TINY
        return torch.cat([seen.means.double(), (seen.spreads.double() + floor).log()], 1).numpy()

    mean, deviation = values(training).mean(axis=0), values(training).std(axis=0)
    standard = (values(training) - mean) / deviation
    variances, vectors = np.linalg.eigh(standard.T @ standard / 199)
    kept = 5  # half of ten numbers
    variances[:-kept] = variances[:-kept].mean()
    inverse = vectors @ np.diag(1 / variances) @ vectors.T
    rows = (values(new) - mean) / deviation
    wanted = np.sqrt(np.einsum("ni,ij,nj->n", rows, inverse, rows) / 10)
    assert found.distance(new).numpy() == pytest.approx(wanted, rel=1e-4)


def test_training_images_are_about_one_away_and_others_farther() -> None:
    found = Familiarity.fit(made_descriptors(400, 0))
    assert float(found.distance(made_descriptors(400, 1)).square().mean()) == pytest.approx(1.0, abs=0.1)
    strange = made_descriptors(50, 2)
    assert found.distance(strange._replace(means=strange.means + 3)).min() > 1.5


def test_more_numbers_than_images_are_no_obstacle() -> None:
    found = Familiarity.fit(made_descriptors(24, 0, means=60, spreads=60))
    assert len(found.components) == 5, "a quarter of the images"
    own, new = (found.distance(made_descriptors(24, seed, means=60, spreads=60)) for seed in (0, 1))
    assert torch.isfinite(own).all()
    assert own.mean() < new.mean() < 3


def test_the_directions_do_not_depend_on_which_of_the_two_matrices_is_taken() -> None:
    many, few = (Familiarity.fit(made_descriptors(n, 0, means=20, spreads=20)) for n in (41, 39))
    products = (many.components @ many.components.mT, few.components @ few.components.mT)
    assert all(torch.allclose(product, torch.eye(len(product)), atol=1e-4) for product in products)


def test_a_blank_image_is_as_strange_as_noise_and_equal_channels_break_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    grey = torch.rand(100, 1, 16, 16, generator=generator) * (torch.rand(100, 1, 1, 1, generator=generator) + 1)
    images = grey.expand(-1, 3, -1, -1)
    network, watched = nn.Sequential(nn.Identity(), nn.Conv2d(3, 4, 3)), Watched("0", (Tap("1"),))
    found = Familiarity.fit(seen_by(network, watched, images))
    usual = found.distance(seen_by(network, watched, images))
    blank = found.distance(seen_by(network, watched, torch.full((1, 3, 16, 16), 0.3)))
    assert torch.isfinite(usual).all()
    assert blank > 5 * usual.max()


def test_a_scale_is_that_of_the_figures() -> None:
    training = made_descriptors(100, 0)
    found = Familiarity.fit(training).scaled(SCALE)
    distances = found.distance(training)
    assert found(training).numpy() == pytest.approx(SCALE.familiar(distances.double().numpy()), abs=1e-5)


@pytest.mark.parametrize("channels", [100, 4000, 12_000])
def test_all_of_it_takes_less_than_200_kb_however_many_channels_there_are(channels: int) -> None:
    seen = Descriptor(torch.randn(50, channels // 2), torch.rand(50, channels // 2))
    found = Familiarity.fit(seen)
    kept = sum(buffer.numel() * buffer.element_size() for buffer in found.buffers())
    assert kept < 199_000, "a scale of 66 knots is still to come"
    assert len(found.components) >= 1


@pytest.fixture(scope="module")
def task() -> Task:
    recipe = check_recipe({"name": "x", "model": {"backbone": "test_efficientnet", "weights": "none", "side": 32}}, "x")
    torch.manual_seed(0)
    return build_task(recipe, ("a", "b")).eval()


def test_a_graph_tells_what_its_module_tells_and_answers_as_it_does_without(task: Task) -> None:
    watched, images = task.watched(), torch.rand(60, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    assert watched is not None
    with torch.inference_mode(), watching(task, watched) as seen:
        task({"image": images})
        described = seen()
    assert described is not None
    found = Familiarity.fit(described).scaled(SCALE)
    plain = task.graph().eval()
    module = Watching(plain, task, watched, found).eval()
    session = open_session(export_model(module, ["probabilities"]))
    assert [output.name for output in session.get_outputs()] == ["probabilities", "familiar"]
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 4), dtype=np.uint8)
    answer, familiar = session.run(None, {"pixels": pixels})
    with torch.inference_mode():
        assert answer == pytest.approx(plain(torch.from_numpy(pixels)).numpy(), abs=1e-6)
        assert familiar == pytest.approx(module(torch.from_numpy(pixels))[1].numpy(), abs=1e-3)
    assert familiar.shape == (1,)

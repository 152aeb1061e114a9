"""How unlike its training images an image is, by what a network itself makes of it.

A network is watched while it answers: the mean and the spread of each channel, over all places, of the image as the
network sees it and of its early maps are one long vector. (Deep maps were tried, and hide what the early ones show:
docs/familiarity.md.) A normal distribution is fitted to the vectors of the training images, and an image's distance
from it is Mahalanobis' (Lee et al. 2018, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
Adversarial Attacks", arXiv:1807.03888, but with one mean for all classes, so that every kind of task has it). There are
more numbers in a vector than images to fit their covariance to, so it is that of probabilistic principal components
(Tipping and Bishop 1999, doi:10.1111/1467-9868.00196): the first components have variances of their own, and all other
directions share one. So what the components leave out counts too, as in ViM (Wang et al. 2022, arXiv:2203.10807).

Spreads are taken as logarithms: a blank image, whose spreads are all but 0, is then as far away as noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from leanmed.figures.familiarity import Scale

COMPONENTS = 32  # at most
ROOM = 48_000  # numbers that all of this may hold: 192 kB. No early maps are so wide that one component is too many
LEAST_SPREAD = 0.03  # added to a spread before its logarithm, in units of its mean over the training images
LEAST_SCALE = 0.01  # of the median standard deviation, below which a channel counts as constant
TINY = 1e-6
PLANES = 4  # axes of maps


class Tap(NamedTuple):
    """A module whose output is watched.

    Args:
        path: of the module. It gives maps (b, c, h, w), tokens, or a list of maps, of which the first is taken.
        axis: of the channels of maps: 1, or -1 of (b, h, w, c). Those of tokens (b, n, c) are always the last.
    """

    path: str
    axis: int = 1


class Watched(NamedTuple):
    """What is watched of a network while it answers.

    Args:
        network: path of the module that is given the image as the network sees it, (b, c, h, w); empty: the whole.
        taps: of its early layers.
    """

    network: str
    taps: tuple[Tap, ...]

    def below(self, module: str) -> Watched:
        """The same of a network that is a part of another one, at this path."""
        taps = tuple(tap._replace(path=f"{module}.{tap.path}") for tap in self.taps)
        return Watched(f"{module}.{self.network}" if self.network else module, taps)


class Descriptor(NamedTuple):
    """What was seen of images: `means` and `spreads` of channels, (b, n) each."""

    means: Tensor
    spreads: Tensor


@contextmanager
def watching(
    network: nn.Module, watched: Watched | None, *, no_further: bool = False
) -> Iterator[Callable[[], Descriptor | None]]:
    """Watch a network that is run once inside; the function returns what was seen, or None if nothing is watched.

    With `no_further` it is run until all was seen, and the rest of what stands inside is passed over.
    """
    if watched is None:
        yield lambda: None
        return
    seen: dict[str, list[Tensor]] = {}

    def keep(name: str, parts: list[Tensor]) -> None:
        seen[name] = parts
        if no_further and len(seen) > len(watched.taps):
            raise _AllSeen

    def image(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        keep("", _of_image(inputs[0]))

    def look_at(own: Tap) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            maps = output if isinstance(output, Tensor) else next((m for m in output if isinstance(m, Tensor)), None)
            keep(own.path, [] if maps is None else _pooled(maps, own.axis))

        return look

    hooks = [network.get_submodule(watched.network).register_forward_pre_hook(image)]
    hooks += [network.get_submodule(own.path).register_forward_hook(look_at(own)) for own in watched.taps]
    try:
        with suppress(_AllSeen):
            yield lambda: _joined([seen.get(path, []) for path in ("", *(own.path for own in watched.taps))])
    finally:
        for hook in hooks:
            hook.remove()


class _AllSeen(Exception):
    """Stops a network of which enough was seen."""


def _pooled(values: Tensor, axis: int) -> list[Tensor]:
    """Mean and spread of each channel over all places, (b, c) each; what has no places is its own mean."""
    values = values.float()
    channels = axis if values.ndim == PLANES else -1
    places = [k for k in range(1, values.ndim) if k != channels % values.ndim]
    if not places:
        return [values, values[:, :0]]
    mean = values.mean(places, keepdim=True)
    return [mean.flatten(1), _spread(values - mean, places)]


def _of_image(image: Tensor) -> list[Tensor]:
    """As `_pooled`; and as further spreads the root mean square of how neighbouring pixels differ, along and across."""
    image = image.float()
    edges = [image[..., 1:] - image[..., :-1], image[..., 1:, :] - image[..., :-1, :]]
    mean, spread = _pooled(image, 1)
    return [mean, torch.cat([spread, *(_spread(edge, [2, 3]) for edge in edges)], 1)]


def _spread(centred: Tensor, places: list[int]) -> Tensor:
    return (centred * centred).mean(places).sqrt()


def _joined(parts: Sequence[Sequence[Tensor]]) -> Descriptor:
    flat = [part for own in parts for part in own]
    return Descriptor(torch.cat(flat[::2], 1), torch.cat(flat[1::2], 1))


class Familiarity(nn.Module):
    """Descriptors to how familiar they are; see the module.

    Args:
        floor: (s,) what is added to spreads before their logarithm.
        centre, scale: (d,) mean and inverse standard deviation of means and logarithms, d in all.
        components: (k, d) orthogonal directions of length 1.
        excess: (k,) inverse variances along these, less that of all other directions.
        rest: () inverse variance of all other directions.
        distances, shares: (m,) the scale, see `Scale`; empty before it is known.
    """

    NAMES = ("floor", "centre", "scale", "components", "excess", "rest", "distances", "shares")
    floor: Tensor
    centre: Tensor
    scale: Tensor
    components: Tensor
    excess: Tensor
    rest: Tensor
    distances: Tensor
    shares: Tensor

    def __init__(self, **values: Tensor) -> None:
        super().__init__()
        for name in self.NAMES:
            self.register_buffer(name, values[name])

    @classmethod
    def fit(cls, seen: Descriptor) -> Familiarity:
        """Fit to what was seen of training images (n, ...), two at least."""
        means, spreads = seen.means.double(), seen.spreads.double()
        floor = LEAST_SPREAD * spreads.mean(0) + TINY
        values = torch.cat([means, (spreads + floor).log()], 1)
        (n, d), deviation = values.shape, values.std(0, correction=0)
        deviation = deviation.clamp_min(LEAST_SCALE * float(deviation.median()) + TINY)
        standard = (values - values.mean(0)) / deviation
        count = max(1, min(COMPONENTS, (n - 1) // 4, d // 2, ROOM // d - 3))
        variances, components = _principal(standard, count)
        left = (standard.square().sum() / (n - 1) - variances.sum()) / (d - count)
        rest = 1 / left.clamp_min(TINY)
        found = {
            "floor": floor,
            "centre": values.mean(0),
            "scale": 1 / deviation,
            "components": components,
            "excess": 1 / variances.clamp_min(TINY) - rest,
            "rest": rest,
            "distances": torch.empty(0),
            "shares": torch.empty(0),
        }
        return cls(**{name: value.float().contiguous() for name, value in found.items()})

    def scaled(self, scale: Scale) -> Familiarity:
        """The same with a scale, so that it tells how familiar an image is."""
        known = {"distances": torch.tensor(scale.distances), "shares": torch.tensor(scale.shares)}
        return type(self)(**{**dict(self.named_buffers()), **known})

    def distance(self, seen: Descriptor) -> Tensor:
        """Mahalanobis distances (b,), over the square root of d, so that training images are about 1 away.

        There is no matrix product in it, which quantization would take for a layer of the network.
        """
        values = torch.cat([seen.means, (seen.spreads + self.floor).log()], 1)
        standard = (values - self.centre) * self.scale  # (b, d)
        along = (standard[:, None] * self.components).sum(2)  # (b, k)
        squared = (standard * standard).sum(1) * self.rest + (along * along * self.excess).sum(1)
        return (squared.clamp_min(0) / len(self.centre)).sqrt()

    def forward(self, seen: Descriptor) -> Tensor:
        """Familiar (b,) in [0, 1]: the scale's shares, interpolated between its distances."""
        start, end = self.distances[:-1], self.distances[1:]
        gone = ((self.distance(seen)[:, None] - start) / (end - start)).clamp(0, 1)  # (b, m - 1)
        return (self.shares[0] + (gone * (self.shares[1:] - self.shares[:-1])).sum(1)).clamp(0, 1)


class Watching(nn.Module):
    """A graph that tells how familiar the image looks too, as its last output, (1,).

    Args:
        graph: pixels to a tensor or a tuple of them.
        network: whose parts the graph runs, once.
        watched: of it.
        familiarity: with its scale.
    """

    def __init__(self, graph: nn.Module, network: nn.Module, watched: Watched, familiarity: Familiarity) -> None:
        super().__init__()
        # not `graph`, which is a name of its own in what torch traces
        self.answering, self.network, self.watched, self.familiarity = graph, network, watched, familiarity

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        with watching(self.network, self.watched) as seen:
            answer = self.answering(pixels)
            familiar = self.familiarity(seen())
        return (*(answer if isinstance(answer, tuple) else (answer,)), familiar)


def _principal(standard: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Variances (count,) and directions (count, d) of the first principal components of centred rows (n, d)."""
    n, d = standard.shape
    if d <= n:
        variances, vectors = torch.linalg.eigh(standard.mT @ standard / (n - 1))
        return variances[-count:].flip(0), vectors.mT[-count:].flip(0)
    variances, vectors = torch.linalg.eigh(standard @ standard.mT / (n - 1))
    kept = vectors.mT[-count:].flip(0) @ standard
    return variances[-count:].flip(0), kept / kept.norm(dim=1, keepdim=True).clamp_min(TINY)

"""Distilled quantization-aware training: the rounded network learns the float one's answers.

The network's graph is run in torch with roundings in the forward pass and none in the backward one (straight-through,
Jacob et al. 2018, arXiv:1712.05877). The float one is the teacher (Hinton et al. 2015, arXiv:1503.02531), so no label
is needed. It teaches its answers and the tensors where its graph branches. Images are mirrored and nothing more: blends
and noise, tried too, taught it about images that never come.

Weights are trained in units of their own step. After batch norm is folded, channels differ in size by orders of
magnitude, and one learning rate in absolute units would fit none of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leanmed.compress.activation_ranges import Range, Sample, activation_names
from leanmed.compress.graph import Array, attributes, initializers, shapes
from leanmed.compress.network import Layer, Network
from leanmed.compress.qdq import LEVELS, rounded_tensors, step
from leanmed.compress.rounding import Rounded
from leanmed.compress.torch_operators import OPERATORS
from leanmed.console import Step, nobody, tracked
from leanmed.errors import ArtifactError

BATCH = 16
ROOM = 4 * 2**30  # bytes of activations of one batch
COPIES = 5  # of each activation: the teacher's, the student's, that on its grid, and their gradients
PLANES = 5  # axes of a batch of images: (n, 1, c, h, w)
RATE = 5e-5  # of the largest code a weight may have, for each step of Adam
Values = dict[str, Any]


def finetune(
    network: Network,
    rounded: Mapping[str, Rounded],
    ranges: Mapping[str, Range],
    samples: Sequence[Sample],
    epochs: int,
    seed: int = 0,
    *,
    watch: Step = nobody,
) -> dict[str, Rounded]:
    """Train the rounded layers' weights and biases.

    Args:
        network: the float network, which is the teacher; layers not in `rounded` stay as they are.
        rounded: where to start from; scales and bits stay.
        ranges: of every activation; they stay.
        samples: images at the network's inputs.
        epochs: passes over them.
        seed: of order and augmentation.
        watch: takes how many epochs are through, and how many there are.

    Raises:
        ArtifactError: as `check_finetunable` does.
    """
    size = check_finetunable(network, samples[0])
    inputs = {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in network.inputs}
    student = _Student(network, rounded, ranges)
    teacher = _Graph(network)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(student.parameters(), lr=RATE)
    total = epochs * -(-len(samples) // size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    for _ in tracked(range(epochs), watch, epochs):
        for batch in _batches(inputs, size, generator):
            with torch.no_grad():
                wanted = teacher(batch)
            loss = _distance(student(batch), wanted)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return student.rounded()


def check_finetunable(network: Network, sample: Sample) -> int:
    """Refuse a network that cannot be fine-tuned, before anything else is done with it.

    Args:
        network: the float network.
        sample: an image at its inputs, which is run through it.

    Returns:
        How many images a batch can have: `BATCH`, or as many as fit into `ROOM`.

    Raises:
        ArtifactError: the network has an operator that this training does not know, or one in a form that it does not
            know, or one image takes more memory than there is room for.
    """
    unknown = sorted({node.op_type for node in network.core.graph.node} - set(OPERATORS))
    if unknown:
        raise ArtifactError(
            f"expected a network of operators that fine-tuning knows, got {', '.join(unknown)}; leave --finetune out"
        )
    known = shapes(network.core)
    image = COPIES * 4 * sum(prod(known.get(name, ())) for name in activation_names(network))
    if image > ROOM:
        raise ArtifactError(
            f"expected a network whose fine-tuning takes at most {ROOM / 2**30:.0f} GiB an image, got one that takes "
            f"about {image / 2**30:.0f} GiB; leave --finetune out"
        )
    with torch.no_grad():
        _Graph(network)({name: torch.from_numpy(value)[None] for name, value in sample.items()})
    return min(BATCH, ROOM // max(image, 1))


def _batches(inputs: Mapping[str, Tensor], size: int, generator: torch.Generator) -> Iterator[Mapping[str, Tensor]]:
    """Shuffled batches of (n, 1, c, h, w) each, every image mirrored or not; inputs without places stay as they are."""
    count = len(next(iter(inputs.values())))
    order = torch.randperm(count, generator=generator)
    for chosen in torch.split(order, size):
        mirrored = torch.rand(len(chosen), 1, 1, 1, 1, generator=generator) < 0.5
        yield {
            name: torch.where(mirrored, values[chosen].flip(-1), values[chosen])
            if values.ndim == PLANES
            else values[chosen]
            for name, values in inputs.items()
        }


def _distance(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Mean over tensors of squared error over variance."""
    parts = [F.mse_loss(a, b) / (b.var() + 1e-6) for a, b in zip(found, wanted, strict=True)]
    return torch.stack(parts).mean()


class _Graph:
    """A network's graph as a torch function from inputs (n, 1, c, h, w) to its answers and its branching tensors."""

    def __init__(self, network: Network) -> None:
        self.nodes = list(network.core.graph.node)
        self.inputs = network.inputs
        self.constants: Values = {n: torch.from_numpy(v.copy()) for n, v in initializers(network.core).items()}
        reads = Counter(name for node in self.nodes for name in node.input)
        made = set(activation_names(network)) - set(network.inputs)
        branching = [name for name, count in reads.items() if count > 1 and name in made]
        self.watched = [*network.outputs, *branching]

    def __call__(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """The watched tensors for each image; the graph itself takes one image at a time."""
        found: list[Tensor] = torch.vmap(self._run)(dict(inputs))
        return found

    def _run(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        values = {**self.constants, **self.weights(), **{name: self.after(name, x) for name, x in inputs.items()}}
        for node in self.nodes:
            given = [values[name] if name else None for name in node.input]
            made = OPERATORS[node.op_type](given, attributes(node))
            for name, value in zip(node.output, made if isinstance(made, tuple) else (made,), strict=False):
                values[name] = self.after(name, value)
        return [values[name] for name in self.watched]

    def weights(self) -> Values:
        """Constants that change from call to call."""
        return {}

    def after(self, name: str, value: Tensor) -> Tensor:
        """What becomes of a tensor once it is made."""
        return value


class _Student(_Graph, nn.Module):
    """The same graph with roundings, and weights to train."""

    def __init__(self, network: Network, rounded: Mapping[str, Rounded], ranges: Mapping[str, Range]) -> None:
        nn.Module.__init__(self)
        _Graph.__init__(self, network)
        self.layers = [layer for layer in network.layers if layer.name in rounded]
        self.start = rounded
        self.grids = {name: _grid(ranges[name]) for name in rounded_tensors(network, rounded) if name in ranges}
        values = network.weights()
        self.codes = nn.ParameterList(self._codes(layer, values[layer.weight]) for layer in self.layers)
        self.shifts = nn.ParameterList(torch.zeros(layer.channels) for layer in self.layers)

    def _codes(self, layer: Layer, weight: Array) -> Tensor:
        """The float weight over its step, a share of the largest code; rounding errors found by GPTQ are kept."""
        mine = self.start[layer.name]
        exact = torch.from_numpy(weight.copy()) / self._scale(layer)
        near = torch.from_numpy(mine.codes.astype(np.float32))
        codes: Tensor = (near + (exact - near).clamp(-0.49, 0.49)) / 2 ** (mine.bits - 1)
        return codes

    def _scale(self, layer: Layer) -> Tensor:
        along = [1] * len(layer.shape)
        along[layer.axis] = -1
        scale: Tensor = torch.from_numpy(self.start[layer.name].scale.copy())
        return scale.reshape(along)

    def weights(self) -> Values:
        """Every rounded layer's weight on its grid, and its bias."""
        found: Values = {}
        for layer, codes, shift in zip(self.layers, self.codes, self.shifts, strict=True):
            limit = 2 ** (self.start[layer.name].bits - 1)
            found[layer.weight] = _straight(codes * limit, -limit, limit - 1) * self._scale(layer)
            if layer.bias:
                found[layer.bias] = self._bias(layer, shift)
        return found

    def _bias(self, layer: Layer, shift: Tensor) -> Tensor:
        mine = self.start[layer.name]
        largest = torch.from_numpy(mine.scale * 2.0 ** (mine.bits - 1))
        return torch.from_numpy(np.asarray(mine.bias)) + shift * largest

    def after(self, name: str, value: Tensor) -> Tensor:
        """Round to 8 bits where the integer network will."""
        if name not in self.grids:
            return value
        size, low = self.grids[name]
        return _straight(value / size, low, low + LEVELS) * size

    def rounded(self) -> dict[str, Rounded]:
        """The trained weights as integers."""
        found = {}
        for layer, codes, shift in zip(self.layers, self.codes, self.shifts, strict=True):
            mine = self.start[layer.name]
            limit = 2 ** (mine.bits - 1)
            whole = (codes.detach() * limit).round().clamp(-limit, limit - 1).to(torch.int8).numpy()
            bias = self._bias(layer, shift).detach().numpy().astype(np.float32) if layer.bias else None
            found[layer.name] = Rounded(whole, mine.scale, bias, mine.bits, None)
        return found


def _grid(limits: Range) -> tuple[float, float]:
    size = step(limits)
    return size, float(np.rint(limits[0] / size))


def _straight(x: Tensor, low: float, high: float) -> Tensor:
    """Round and clip; the gradient is that of the clipping alone."""
    clipped = x.clamp(low, high)
    return clipped + (clipped.round() - clipped).detach()

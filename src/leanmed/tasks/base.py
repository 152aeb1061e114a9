"""What a task owns, and so what the training loop and the export may ask of any of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from numpy.typing import NDArray
from torch import Tensor, nn

from leanmed.errors import ExportError, RecipeError
from leanmed.models.familiarity import Watched
from leanmed.records import Record
from leanmed.tasks.kind import Answer

Named = dict[str, Tensor]
"""Tensors by name, each with the batch as its first axis; of a single image, without that axis."""
Size = tuple[int, int]  # height and width of an image as it was read, in pixels


class Batch(NamedTuple):
    """Some images with their targets, each by name: room for prompts, distances and a teacher's outputs."""

    inputs: Named
    targets: Named


class Parts(NamedTuple):
    """Module paths of a network's parts, by which a technique decides what it trains; the longest that fits counts.

    What lies in none of them, such as the decoder that is put on a trained encoder, has no weights worth keeping, and
    is always trained.
    """

    encoder: str
    """With the transformer blocks; the empty path is the whole network."""
    decoder: tuple[str, ...] = ()
    """What has trained weights and makes the answer of the encoder's features, such as SAM's mask decoder."""
    frozen: tuple[str, ...] = ()
    """What is never trained by a technique that trains only parts, such as SAM's prompt encoder."""
    fresh: tuple[str, ...] = ()
    """What lies in one of the parts above and is always trained, such as a classifier's last layer."""


class FurtherGraph(NamedTuple):
    """A graph that an artifact runs after `model`, to be exported.

    Args:
        module: takes the inputs that the kind's `answer.INPUTS` names, in that order, and gives a tensor, or a tuple of
            them, in the order of `answer.GRAPHS`.
        examples: inputs by name; the module is traced with the first, and on all of them it must agree with the graph.
        lengths: input -> axis -> `torch.export.Dim`, of axes that may have another length than in the first example.
    """

    module: nn.Module
    examples: Sequence[Named]
    lengths: Mapping[str, Mapping[int, Any]] = MappingProxyType({})


class Scorer(ABC):
    """Gathers what the figures of a whole part need, batch by batch, and no outputs that are large."""

    @abstractmethod
    def add(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        """Take the outputs of `forward` and the targets of one batch."""

    @abstractmethod
    def figures(self) -> dict[str, float]:
        """The figures of all that was added, as the report has them, and `loss`."""


class Task(nn.Module, ABC):
    """One kind of question asked of an image: its forward, loss, decode, score, and the graph it exports.

    The loop, the export and every compression technique know this class and none of its kinds.
    """

    main_score: str
    """The figure by which versions of one model are compared, higher being better."""

    @property
    def kept(self) -> Task:
        """The task whose weights a training leaves behind: this one, unless a technique has put itself around it."""
        return self

    def begin(self, data: Iterable[Batch]) -> list[str]:
        """Take from the training part, image by image, what must be known before; lines to tell whoever watches."""
        return []

    def parts(self) -> Parts:
        """Which module of this task is the encoder, and which are its other parts.

        Raises:
            RecipeError: this kind of task, or this network, has no encoder apart from the rest.
        """
        raise RecipeError(
            "expected adapters.method to be none for this network, which has no encoder apart from the rest; leave it "
            "out, or choose another network"
        )

    def watched(self) -> Watched | None:
        """Which modules tell how familiar an image looks; None: of this network it is not told."""
        return None

    @abstractmethod
    def prepare(self, pixels: NDArray[Any]) -> Named:
        """Decoded pixels (h, w, c) of any size to the network's inputs, by the code that is exported."""

    def keep(self, inputs: Named) -> Named:
        """Prepared inputs as a training keeps them in memory: in the image's own type (uint8, int16), not as floats.

        `augment` and `forward` take them so. What a run answers for its test part is prepared anew and not rounded.
        """
        return inputs

    @abstractmethod
    def encode(self, record: Record, size: Size | None = None) -> Named:
        """A record's target as the loss wants it, in the frame of what `prepare` makes of an image of that size."""

    @abstractmethod
    def augment(self, batch: Batch, seed: int) -> Batch:
        """Random changes, inputs and targets together; the same seed makes the same changes."""

    @abstractmethod
    def forward(self, inputs: Mapping[str, Tensor]) -> Named:
        """Inputs as `prepare` or `augment` gives them, batched, to uncalibrated outputs."""

    def told(self, targets: Named) -> Named:
        """What a person who knows the true targets of one image, a batch of one, would give beside it, such as a point.

        It is for figures that stand apart from all others, since the truth takes part in these answers. Most kinds of
        task take nothing, and of some images, such as one without an object, there is nothing to tell: both give {}.
        """
        return {}

    @abstractmethod
    def reveal(self, inputs: Mapping[str, Tensor]) -> Named:
        """What the network makes of inputs, before anything is decided: what the loss takes, and a student compares.

        Among it are `logits`, whose axis 1 has the classes, and `features`, or `features.0`, `features.1`... from the
        shallowest to the deepest, with channels on axis 1. Where logits are of other places than pixels, `places` says
        which.
        """

    def known(self, targets: Named) -> Tensor | None:
        """Where maps of logits have a truth, (b, h, w) bool, so that a student follows its teacher there; None: all."""
        return None

    @abstractmethod
    def loss_of(self, revealed: Named, targets: Named) -> Tensor:
        """The scalar that training lowers, of what `reveal` gives."""

    def loss(self, batch: Batch) -> Tensor:
        """The scalar that training lowers."""
        return self.loss_of(self.reveal(batch.inputs), batch.targets)

    @abstractmethod
    def scorer(self) -> Scorer:
        """A new, empty scorer, which sees the task as it is calibrated when the figures are asked for."""

    def decide_by(self, temperature: float, threshold: float | None) -> None:
        """Take a temperature and a decision threshold, which are fitted to the answers of all folds together."""

    @abstractmethod
    def answers(self, outputs: Mapping[str, Tensor], sizes: Sequence[Size] | None = None) -> Sequence[Answer]:
        """Calibrated, decided answers, one per image, as an artifact gives them.

        Args:
            outputs: of `forward`.
            sizes: of the images, in whose own frames the answers are; None: in the frame of what `prepare` makes.
        """

    @abstractmethod
    def graph(self) -> nn.Module:
        """The module that becomes the artifact's graph: an image's pixels in, answers in its frame out.

        It gives a tensor, or a tuple of them, in the order in which the kind's `answer.GRAPHS` names them.
        """

    def further_graphs(self) -> Mapping[str, FurtherGraph]:
        """The artifact's other graphs by name, of a kind whose `answer.finish` runs them; of most kinds there are none.

        The graph `model` then gives what they take, and not yet an answer.
        """
        return {}

    def ensemble(self, others: Sequence[Task]) -> nn.Module:
        """As `graph`, of this task and others trained alike: the mean of their answers.

        Raises:
            ExportError: the kind's answers have no mean.
        """
        raise ExportError("expected a kind of task whose answers have a mean, got one whose have none; export one fold")

    @abstractmethod
    def manifest(self) -> dict[str, Any]:
        """What `leanmed.json` must say of the task: labels, input, threshold, temperature, main score."""

"""ERFNet: residual blocks whose 3x3 convolutions are split into 3x1 and 1x3.

Romera et al. 2018, "ERFNet: Efficient Residual Factorized ConvNet for Real-Time Semantic Segmentation", IEEE
Transactions on Intelligent Transportation Systems 19(1), table I and figures 2 and 3.

Every convolution has a bias, which gives the 2.063M parameters that a later paper states for two classes. Its 16.53
GFLOPs at 384 x 384 count the transposed convolutions as if each output took as many products as the kernel has weights;
a quarter of them are done, and the true figure is 14.87.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from leanmed.models.familiarity import Tap
from leanmed.models.segmentation import ConvAndPool, Maps, Segmenter, initialise

EPS = 1e-3  # of batch normalisation


class ERFNet(Segmenter):
    """Images (b, channels, h, w) to `Maps`.

    The features are the input of the last layer (16 channels, half the size) and the end of the encoder (128 channels,
    an eighth).

    Args:
        channels: of the images, fewer than 16.
        classes: of the logits.
        dropout: rate at an eighth of the size; at a quarter it is a tenth of this, and the decoder has none. The paper
            has 0.3. Whole channels are dropped.
    """

    stride = 8
    early = Tap("encoder.8")

    def __init__(self, channels: int, classes: int, *, dropout: float = 0.3) -> None:
        super().__init__()
        self.feature_channels, self.pretrained_cfg = (16, 128), {}
        self.encoder = nn.Sequential(
            *_down(channels, 16),
            *_down(16, 64),
            *(NonBottleneck1D(64, dropout=dropout / 10) for _ in range(5)),
            *_down(64, 128),
            *(NonBottleneck1D(128, dilation, dropout) for _ in range(2) for dilation in (2, 4, 8, 16)),
        )
        self.decoder = nn.Sequential(
            *_up(128, 64),
            *(NonBottleneck1D(64) for _ in range(2)),
            *_up(64, 16),
            *(NonBottleneck1D(16) for _ in range(2)),
        )
        self.classifier = nn.ConvTranspose2d(16, classes, 2, 2)
        initialise(self, self.classifier)

    def maps(self, images: Tensor) -> Maps:
        """See the class."""
        deep = self.encoder(images)
        shallow = self.decoder(deep)
        return Maps(self.classifier(shallow), (shallow, deep))


class NonBottleneck1D(nn.Module):
    """A residual block of two 3x3 convolutions, each split in two; figure 2c of the paper.

    Args:
        channels: in and out.
        dilation: of the second convolution.
        dropout: rate.
    """

    def __init__(self, channels: int, dilation: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *_split(channels, 1), nn.BatchNorm2d(channels, EPS), nn.ReLU(),
            *_split(channels, dilation), nn.BatchNorm2d(channels, EPS), nn.Dropout2d(dropout),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels, h, w) to the same shape."""
        return F.relu(x + self.branch(x))


def _split(channels: int, dilation: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, channels, (3, 1), padding=(dilation, 0), dilation=(dilation, 1)),
        nn.ReLU(),
        nn.Conv2d(channels, channels, (1, 3), padding=(0, dilation), dilation=(1, dilation)),
    ]


def _down(inputs: int, outputs: int) -> list[nn.Module]:
    return [ConvAndPool(inputs, outputs, EPS), nn.ReLU()]


def _up(inputs: int, outputs: int) -> list[nn.Module]:
    transposed = nn.ConvTranspose2d(inputs, outputs, 3, 2, padding=1, output_padding=1)
    return [transposed, nn.BatchNorm2d(outputs, EPS), nn.ReLU()]

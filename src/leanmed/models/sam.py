"""The Segment Anything Model: an image is embedded once, and points or a box then say what of it is to be marked.

Kirillov et al. 2023, "Segment Anything", arXiv:2304.02643. The layers are those of transformers' `SamModel`, and so are
their names. The way through the mask decoder is our own, for three reasons: padding points are ignored, so that a batch
gives what its images give alone; points alone and points with a box take one graph; and that graph exports. The
encoder's attention is our own, too, so that a finished model need not hold the scores of a whole image at once.

SAM 2 is not here: its encoder is another one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from leanmed.prompts import BOTTOM_RIGHT, NO_POINT, TOP_LEFT

PATCH = 16  # pixels along each side
SCORES = 2**23  # of attention that a model which is not trained holds at once
UNSEEN = -1e4  # added to the scores of tokens that nothing may attend to; half precision holds it, and exp gives 0
# What Meta's weights expect. MedSAM's expect images in [0, 1] as they are: a mean of 0 and a standard deviation of 1.
NORMALISATION = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
Checkpointed = Literal["none", "global", "all"]


class PromptedSegmenter(nn.Module, ABC):
    """Images and prompts to a mask for each image.

    Attributes:
        side: images are (b, 3, side, side), normalised by the caller.
        channels: of the embeddings.
        stride: pixels from one place of the embeddings to the next.
        pretrained_cfg: the `mean` and `std` of the images in [0, 1] that the weights expect.
        global_blocks: which of `blocks` attend to the whole image; the others attend within windows.
        checkpointed: which of `blocks` are computed again in the backward pass; see `checkpoint_blocks`.
        fresh: names of the tensors that no weights of SAM hold. Where such weights are loaded, these alone are trained.
    """

    side: int
    channels: int
    stride: int = PATCH
    pretrained_cfg: dict[str, Any]
    global_blocks: tuple[int, ...]
    checkpointed: frozenset[int] = frozenset()
    fresh: frozenset[str] = frozenset()

    @property
    @abstractmethod
    def blocks(self) -> nn.ModuleList:
        """The encoder's transformer blocks, in order."""

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Images (b, 3, side, side) to embeddings (b, channels, side / stride, side / stride)."""

    @abstractmethod
    def decode(
        self, embeddings: Tensor, points: Tensor, labels: Tensor, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The best mask for each prompt.

        Args:
            embeddings: as `embed` gives them, of b images, or of one image that has b prompts.
            points: (b, n, 2) x, y in pixels of the square; whole numbers are the centres of pixels. n may be 0.
            labels: (b, n) integers: 1 inside the object, 0 outside it, 2 and 3 the top left and bottom right corners of
                a box, -1 no point. The last are padding: they change nothing, and may lie anywhere.
            boxes: (b, 4) xyxy in the same pixels; the same as two more points with labels 2 and 3.

        Returns:
            Logits (b, 1, h, w), four times as large as the embeddings, and the IoU (b,) that the network expects its
            mask to have, not clipped.
        """

    def forward(
        self, images: Tensor, points: Tensor, labels: Tensor, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`decode` of what `embed` gives."""
        return self.decode(self.embed(images), points, labels, boxes)


def checkpoint_blocks(network: PromptedSegmenter, which: Checkpointed) -> None:
    """Choose the encoder's blocks whose inner values are computed again in the backward pass, to save memory.

    Args:
        network: is changed.
        which: `none`: no block; `global`: the blocks that attend to the whole image, whose attention maps are the
            largest; `all`: every block.
    """
    chosen = {"none": (), "global": network.global_blocks, "all": range(len(network.blocks))}
    network.checkpointed = frozenset(chosen[which])


class Sam(PromptedSegmenter):
    """SAM with the layers of transformers' `SamModel`, under their names.

    Newly made, each layer is drawn as torch draws it, which is how Meta's code does it, and the encoder's absolute
    positions are drawn from a narrow normal distribution. The frequencies that encode the positions of points are a
    buffer, as in Meta's code: they are never trained. Two parts serve masks as prompts and several masks as answers:
    `prompt_encoder.mask_embed`, and all `mask_decoder.output_hypernetworks_mlps` but the first. They are kept, so that
    weights fit, and get no gradient.

    Args:
        config: a `transformers.SamConfig`; the images' side is the `image_size` of its prompt encoder, a multiple of
            16.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        from transformers import SamModel

        made: Any = SamModel  # its constructor has no types
        model = made._from_config(config, attn_implementation="eager")  # the other one does not export
        self.vision_encoder: Any = model.vision_encoder
        for layer in self.vision_encoder.layers:
            layer.attn = _Attention(layer.attn)
        self.prompt_encoder: Any = model.prompt_encoder
        self.mask_decoder: Any = model.mask_decoder
        self.side = config.prompt_encoder_config.image_size
        self.channels = config.vision_config.output_channels
        self.global_blocks = tuple(config.vision_config.global_attn_indexes)
        self.pretrained_cfg = dict(NORMALISATION)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if callable(draw := getattr(module, "reset_parameters", None)):
                draw()
        nn.init.trunc_normal_(self.vision_encoder.pos_embed, std=0.02)
        frequencies = self.prompt_encoder.shared_embedding
        drawn = torch.randn_like(frequencies.positional_embedding, requires_grad=False)
        del frequencies.positional_embedding
        frequencies.register_buffer("positional_embedding", drawn)

    @property
    def blocks(self) -> nn.ModuleList:
        """See the base class."""
        return self.vision_encoder.layers  # type: ignore[no-any-return]

    def embed(self, images: Tensor) -> Tensor:
        """See the base class."""
        x = self.vision_encoder.patch_embed(images) + self.vision_encoder.pos_embed  # (b, h, w, width)
        for i in range(len(self.blocks)):
            x = self.through(i, x)
        return self.vision_encoder.neck(x)  # type: ignore[no-any-return]

    def through(self, i: int, *inputs: Tensor) -> Any:
        """What block i gives; if it is one of `checkpointed`, it is computed again in the backward pass."""
        block = self.blocks[i]
        if i in self.checkpointed and self.training and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def decode(
        self, embeddings: Tensor, points: Tensor, labels: Tensor, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See the base class."""
        decoder = self.mask_decoder
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])  # (5, c)
        tokens, fine = self.attended(own, embeddings, points, labels, boxes)
        logits = masked(decoder.output_hypernetworks_mlps[0](tokens[:, 1:2]), fine)
        return logits, decoder.iou_prediction_head(tokens[:, 0])[:, 0]

    def attended(
        self, own: Tensor, embeddings: Tensor, points: Tensor, labels: Tensor, boxes: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The decoder's own tokens and the maps after both attended to each other and to the prompts.

        Args:
            own: (n, c), what stands for the answers.
            embeddings: (b, c, h, w); they and the prompts are as of `decode`.
            points: see there.
            labels: see there.
            boxes: see there.

        Returns:
            Tokens (b, n, c), and maps (b, c / 8, 4 h, 4 w).
        """
        if boxes is not None:
            corners = torch.arange(TOP_LEFT, BOTTOM_RIGHT + 1, device=labels.device, dtype=labels.dtype)
            points = torch.cat([points, boxes.reshape(-1, 2, 2)], 1)
            labels = torch.cat([labels, corners.expand(boxes.shape[0], 2)], 1)
        prompts, unseen = self._prompts(points, labels)
        tokens = torch.cat([own.expand(points.shape[0], -1, -1), prompts], 1)[:, None]  # (b, 1, t, c)
        hidden = F.pad(unseen, (own.shape[0], 0))[:, None, None] * UNSEEN  # (b, 1, 1, t)

        images = embeddings + self.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1)
        images = images.expand(points.shape[0], -1, -1, -1)
        maps = images.flatten(2).transpose(1, 2)[:, None]  # (b, 1, h w, c)
        tokens, maps = _two_way(self.mask_decoder.transformer, tokens, maps, self._positions(), hidden)

        decoder, fine = self.mask_decoder, maps[:, 0].transpose(1, 2).reshape(images.shape)
        fine = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(fine)))
        return tokens[:, 0, : own.shape[0]], decoder.activation(decoder.upscale_conv2(fine))

    def _prompts(self, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (b, n + 1, c) of points and of one more, and where these are to be ignored: (b, n + 1), 1 or 0.

        SAM was trained with one token for "no point" where there is no box; the last stands for it, and is ignored
        where there is one.
        """
        encoder = self.prompt_encoder
        kinds = torch.cat([encoder.not_a_point_embed.weight, *(kind.weight for kind in encoder.point_embed)])  # (5, c)
        points, labels = F.pad(points, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=NO_POINT)
        real = labels != NO_POINT
        where = encoder.shared_embedding((points + 0.5) / self.side)  # of the centres of pixels
        tokens = where * real[..., None] + kinds[(labels - NO_POINT).long()]
        boxed = (labels >= TOP_LEFT).any(1, keepdim=True)
        unseen = torch.cat([~real[:, :-1], boxed], 1)
        return tokens, unseen.to(tokens.dtype)

    def _positions(self) -> Tensor:
        """What encodes the centre of each patch: (1, 1, h w, c)."""
        size = self.side // self.stride
        frequencies = self.prompt_encoder.shared_embedding
        steps = (torch.arange(size, device=frequencies.positional_embedding.device) + 0.5) / size
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        return frequencies(torch.stack([x, y], -1)).view(1, 1, size * size, -1)  # type: ignore[no-any-return]


class _Attention(nn.Module):
    """Attention among the places of a map, with biases for how far two of them are apart along each axis.

    Outside of training the map is worked through some rows at a time: at 1024 pixels the scores of one head are 67 MB.

    Args:
        made: transformers' `SamVisionAttention`, whose layers are taken over.
    """

    def __init__(self, made: Any) -> None:
        super().__init__()
        self.heads, self.scale = made.num_attention_heads, made.scale
        self.qkv, self.proj = made.qkv, made.proj
        self.rel_pos_h, self.rel_pos_w = made.rel_pos_h, made.rel_pos_w

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, None]:
        """(b, h, w, c) to the same shape; nothing takes the place of the weights that transformers gives."""
        b, h, w, _ = hidden_states.shape
        parts = self.qkv(hidden_states).reshape(b, h * w, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = parts.flatten(1, 2).unbind(0)  # (b heads, h w, c / heads) each
        places = query.reshape(len(query), h, w, -1)
        down = torch.einsum("nrwc,rkc->nrwk", places, _by_distance(self.rel_pos_h, h))
        across = torch.einsum("nrwc,wkc->nrwk", places, _by_distance(self.rel_pos_w, w))
        rows = h if self.training else max(1, SCORES // (len(query) * w * h * w))
        attended = []
        for first in range(0, h, rows):
            own = slice(first, min(first + rows, h))
            scores = (query[:, own.start * w : own.stop * w] * self.scale) @ key.transpose(1, 2)
            apart = down[:, own, :, :, None] + across[:, own, :, None, :]  # (n, rows, w, h, w)
            weights = (scores + apart.reshape(scores.shape)).softmax(-1, dtype=torch.float32).to(query.dtype)
            attended.append(weights @ value)
        joined = torch.cat(attended, 1).reshape(b, self.heads, h * w, -1).transpose(1, 2)
        return self.proj(joined.reshape(b, h, w, -1)), None


def masked(weights: Tensor, maps: Tensor) -> Tensor:
    """Maps (b, c, h, w) weighed by (b, 1, c): logits (b, 1, h, w)."""
    return (weights @ maps.flatten(2)).view(-1, 1, *maps.shape[-2:])


def _by_distance(biases: Tensor, size: int) -> Tensor:
    """Biases (2 size - 1, c), from the farthest before to the farthest behind, as (size, size, c) by both places."""
    place = torch.arange(size, device=biases.device)
    return biases[place[:, None] - place + size - 1]


def _two_way(
    transformer: Any, tokens: Tensor, maps: Tensor, positions: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor]:
    """Tokens (b, 1, t, c) and maps (b, 1, h w, c), each after attending to the other.

    Args:
        transformer: transformers' `SamTwoWayTransformer`, whose layers are applied in its order.
        tokens: of the answers and prompts.
        maps: of the images.
        positions: (1, 1, h w, c) of the maps.
        hidden: (b, 1, 1, t), added to the scores of tokens that are attended to.
    """
    prompts = tokens
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:  # the first, whose tokens are the prompts themselves
            tokens = layer.self_attn(query=tokens, key=tokens, value=tokens, attention_similarity=hidden)[0]
        else:
            query = tokens + prompts
            tokens = tokens + layer.self_attn(query=query, key=query, value=tokens, attention_similarity=hidden)[0]
        tokens = layer.layer_norm1(tokens)
        query, key = tokens + prompts, maps + positions
        tokens = layer.layer_norm2(tokens + layer.cross_attn_token_to_image(query=query, key=key, value=maps)[0])
        tokens = layer.layer_norm3(tokens + layer.mlp(tokens))
        back = layer.cross_attn_image_to_token(
            query=key, key=tokens + prompts, value=tokens, attention_similarity=hidden
        )[0]
        maps = layer.layer_norm4(maps + back)
    last = transformer.final_attn_token_to_image(query=tokens + prompts, key=maps + positions, value=maps)[0]
    return transformer.layer_norm_final_attn(tokens + last), maps


def sam_vit(*shape: Any) -> Sam:
    """SAM with a plain vision transformer; the arguments are those of `sam_config`."""
    return Sam(sam_config(*shape))


def sam_config(
    width: int,
    depth: int,
    heads: int,
    global_blocks: Sequence[int],
    side: int,
    window: int = 14,
    channels: int = 256,
    mlp: int = 2048,
    stride: int = PATCH,
) -> Any:
    """The `transformers.SamConfig` of a plain vision transformer.

    Args:
        width: of the encoder.
        depth: the number of its blocks.
        heads: of its attention; they divide the width.
        global_blocks: which blocks attend to the whole image.
        side: of the images in pixels, a multiple of 16.
        window: patches along each side of the windows that the other blocks attend within.
        channels: of the embeddings and the decoder, a multiple of 16.
        mlp: hidden values in the decoder's perceptrons.
        stride: pixels from one patch to the next. The encoder has positions for as many.
    """
    from transformers import SamConfig, SamMaskDecoderConfig, SamPromptEncoderConfig, SamVisionConfig

    return SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            global_attn_indexes=tuple(global_blocks),
            window_size=window,
            image_size=side * PATCH // stride,
            output_channels=channels,
            num_pos_feats=channels // 2,
        ),
        prompt_encoder_config=SamPromptEncoderConfig(hidden_size=channels, image_size=side),
        mask_decoder_config=SamMaskDecoderConfig(hidden_size=channels, mlp_dim=mlp, iou_head_hidden_dim=channels),
    )


def sam_small(
    side: int, *, width: int = 192, depth: int = 12, heads: int = 3, window: int = 7, channels: int = 128
) -> Sam:
    """A small SAM for training from nothing: with its defaults it has 6.5 million parameters at 224.

    At sides of 224, 336 and 448 the windows fit without padding.

    Args:
        side: of the images in pixels, a multiple of 16.
        width: of the encoder; `heads` divides it.
        depth: the number of its blocks, a multiple of four.
        heads: of its attention.
        window: patches along each side of a window.
        channels: of the embeddings and the decoder, a multiple of 16.

    Raises:
        ValueError: numbers that do not fit each other.
    """
    return Sam(small_config(side, width, depth, heads, window, channels))


def small_config(side: int, width: int, depth: int, heads: int, window: int, channels: int, stride: int = PATCH) -> Any:
    """`sam_config` with blocks in four equal groups, the last of each attending to the whole image, as in SAM.

    Raises:
        ValueError: numbers that do not fit each other.
    """
    for name, value in {"width": width, "depth": depth, "heads": heads, "window": window, "channels": channels}.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"expected {name} to be a whole number of at least 1, got {value!r}")
    if width % heads or depth % 4 or channels % 16:
        raise ValueError(
            "expected a width that is a multiple of heads, a depth that is one of 4, and channels that are one of 16, "
            f"got width {width}, heads {heads}, depth {depth}, channels {channels}"
        )
    blocks = range(depth // 4 - 1, depth, depth // 4)
    return sam_config(width, depth, heads, blocks, side, window, channels, 4 * channels, stride)

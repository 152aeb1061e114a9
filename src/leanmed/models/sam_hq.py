"""SAM-HQ: Segment Anything whose decoder also sees an early map of the encoder, for finer outlines.

Ke et al. 2023, "Segment Anything in High Quality", arXiv:2306.01567. One more token asks for the finer mask, and maps
of SAM's decoder, of its embedding and of the first block that attends to the whole image are added up for it. The mask
is the sum of SAM's and the finer one, as the authors' code has it by default. The layers are those of transformers'
`SamHQModel`, and so are their names, but not the way through them: in version 5.24 that model makes masks of the
embedding, with height and width exchanged, where the authors' code and ours take what attention has made of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from leanmed.models.sam import Sam, masked, sam_config


class SamHQ(Sam):
    """SAM with the decoder of SAM-HQ. Its embeddings are SAM's, and the early map behind them, channel by channel.

    Args:
        config: a `transformers.SamConfig`, as `sam_config` makes it.
    """

    def __init__(self, config: Any) -> None:
        from transformers.models.sam_hq.configuration_sam_hq import SamHQMaskDecoderConfig
        from transformers.models.sam_hq.modeling_sam_hq import SamHQMaskDecoder

        super().__init__(config)
        of_sam, width = config.mask_decoder_config, config.vision_config.hidden_size
        shape = {name: getattr(of_sam, name) for name in ("hidden_size", "mlp_dim", "iou_head_hidden_dim")}
        own = SamHQMaskDecoderConfig(**shape, vit_dim=width)
        own._attn_implementation = "eager"  # the other one does not export
        self.mask_decoder = SamHQMaskDecoder(own)
        self.own = self.channels  # of SAM's embedding
        self.channels += width

    def embed(self, images: Tensor) -> Tensor:
        """See the base class."""
        x = early = self.vision_encoder.patch_embed(images) + self.vision_encoder.pos_embed  # (b, h, w, width)
        for i in range(len(self.blocks)):
            x = self.through(i, x)
            early = x if i == self.global_blocks[0] else early
        return torch.cat([self.vision_encoder.neck(x), early.permute(0, 3, 1, 2)], 1)

    def decode(
        self, embeddings: Tensor, points: Tensor, labels: Tensor, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See the base class."""
        decoder = self.mask_decoder
        embedding, early = embeddings[:, : self.own], embeddings[:, self.own :]
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight, decoder.hq_token.weight])  # (6, c)
        tokens, maps = self.attended(own, embedding, points, labels, boxes)

        act = decoder.activation
        fine = decoder.mask_conv2(act(decoder.mask_norm(decoder.mask_conv1(maps))))  # (b, c / 8, 4 h, 4 w)
        fine = fine + decoder.encoder_conv2(act(decoder.encoder_norm(decoder.encoder_conv1(embedding))))
        fine = fine + decoder.compress_vit_conv2(act(decoder.compress_vit_norm(decoder.compress_vit_conv1(early))))
        logits = masked(decoder.output_hypernetworks_mlps[0](tokens[:, 1:2]), maps)
        logits = logits + masked(decoder.hq_mask_mlp(tokens[:, -1:]), fine)
        return logits, decoder.iou_prediction_head(tokens[:, 0])[:, 0]


def sam_hq_vit(*shape: Any) -> SamHQ:
    """SAM-HQ with a plain vision transformer; the arguments are those of `sam_config`."""
    return SamHQ(sam_config(*shape))

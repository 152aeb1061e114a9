"""SAM-HQ: the answers of transformers' network, with its weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from leanmed.compress.adapters import adapt
from leanmed.errors import RecipeError
from leanmed.models.prompted import NETWORKS, build_prompted
from leanmed.models.sam import sam_vit
from leanmed.models.sam_hq import SamHQ, sam_hq_vit
from leanmed.models.sam_weights import load_sam_weights, transformers_name
from leanmed.recipe.recipe import Adapters, Model

SIDE = 64
INSIDE, OUTSIDE = 1, 0


def hq() -> Any:
    """4 x 4 patches; the second block of three is the first that attends to the whole image."""
    torch.manual_seed(0)
    return sam_hq_vit(8, 3, 2, (1, 2), SIDE, 3, 16, 32)


def images(count: int = 1) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Transformers' own network with random weights, and ours with the same from the folder where it saves itself.

    Its decoder is put right: it makes masks of the embedding where SAM-HQ makes them of what attention gives.
    """
    from transformers import SamHQConfig, SamHQModel

    shape = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": SIDE, "window_size": 3}
    shape |= {"global_attn_indexes": [1, 2], "output_channels": 16, "num_pos_feats": 8}
    decoder = {"hidden_size": 16, "mlp_dim": 32, "iou_head_hidden_dim": 16, "vit_dim": 8}
    prompts = {"hidden_size": 16, "image_size": SIDE}
    theirs = SamHQModel(
        SamHQConfig(vision_config=shape, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    ).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    folder = tmp_path_factory.mktemp("sam-hq")
    theirs.save_pretrained(folder)
    made = hq()
    load_sam_weights(made, str(folder), "sam-hq-vit-b")
    attended: list[Tensor] = []
    decoder = theirs.mask_decoder
    decoder.transformer.register_forward_hook(lambda _, inputs, outputs: attended.append(outputs[1]))
    decoder.upscale_conv1.register_forward_pre_hook(
        lambda _, inputs: (attended.pop().transpose(2, 3).reshape(inputs[0].shape),)
    )
    return theirs, made.eval(), folder


@pytest.mark.parametrize("boxed", [False, True])
def test_the_answer_is_that_of_transformers(boxed: bool, reference: Any) -> None:
    theirs, network, _ = reference
    points, labels = torch.tensor([[[3.0, 50.0], [20.5, 7.0]]]), torch.tensor([[INSIDE, OUTSIDE]])
    boxes = torch.tensor([[4.0, 8.0, 30.0, 41.0]]) if boxed else None
    with torch.inference_mode():
        wanted = theirs(
            images(),
            input_points=points[:, None],
            input_labels=labels[:, None],
            input_boxes=None if boxes is None else boxes[:, None],
            multimask_output=False,
        )
        logits, scores = network(images(), points, labels, boxes)
    assert wanted.pred_masks.std() > 1e-3
    assert torch.allclose(logits, wanted.pred_masks[:, 0], rtol=1e-4, atol=1e-4)
    assert torch.allclose(scores, wanted.iou_scores[:, 0, 0], atol=1e-4)


def test_an_embedding_holds_the_early_map_and_answers_several_prompts(reference: Any) -> None:
    _, network, _ = reference
    embedding = network.embed(images())
    assert embedding.shape == (1, network.channels, 4, 4) == (1, 16 + 8, 4, 4)
    points, labels = torch.tensor([[[5.0, 6.0]], [[40.0, 50.0]]]), torch.tensor([[INSIDE], [OUTSIDE]])
    logits, scores = network.decode(embedding, points, labels)
    assert (logits.shape, scores.shape) == ((2, 1, 16, 16), (2,))
    alone, _ = network.decode(embedding, points[1:], labels[1:])
    assert torch.allclose(logits[1:], alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(
        network.decode(torch.cat([embedding[:, :16], 0 * embedding[:, 16:]], 1), points, labels)[0], logits
    )


def test_it_has_as_many_parameters_as_transformers_has() -> None:
    from transformers import SamHQConfig, SamHQModel

    with torch.device("meta"):
        network = build_prompted(Model(backbone="sam-hq-vit-b", weights="none", side=1024))
        theirs = SamHQModel(SamHQConfig())
    counted = {name: p.numel() for name, p in theirs.named_parameters() if "positional_embedding" not in name}
    assert {name: p.numel() for name, p in network.named_parameters()} == counted
    assert sum(counted.values()) == 94_806_576
    assert isinstance(network, SamHQ)
    assert {"sam-hq-vit-b", "sam-hq-vit-l", "sam-hq-vit-h"} < set(NETWORKS)


def test_weights_of_sam_alone_are_refused(tmp_path: Any) -> None:
    save_file(sam_vit(8, 3, 2, (1, 2), SIDE, 3, 16, 32).state_dict(), tmp_path / "sam.safetensors")
    with pytest.raises(RecipeError, match=r"missing \(mask_decoder.compress_vit_conv1.bias"):
        load_sam_weights(hq(), str(tmp_path / "sam.safetensors"), "sam-hq-vit-b")


@pytest.mark.parametrize("method", ["hierarchical", "lora", "decoder", "full"])
def test_adapters_change_nothing_before_training_and_train_what_they_should(method: str, reference: Any) -> None:
    network = hq()
    load_sam_weights(network, str(reference[2]), "sam-hq-vit-b")
    points, labels = torch.tensor([[[5.0, 6.0]]]), torch.tensor([[INSIDE]])
    wanted, _ = network.eval()(images(), points, labels)
    adapt(network, Adapters(method=method))
    found, scores = network(images(), points, labels)
    assert torch.allclose(found, wanted, atol=1e-5)
    (found.square().mean() + scores.sum()).backward()
    named = dict(network.named_parameters())
    parts = {
        "hierarchical": (".adapter.",),
        "lora": (".lora_",),
        "decoder": ("mask_decoder.",),
        "full": ("mask_decoder.", "vision_encoder."),
    }[method]
    trained = {name for name, p in named.items() if p.requires_grad}
    assert trained == {name for name in named if any(part in name for part in parts)}
    learn = {"hierarchical": "adapter.up.bias", "lora": "lora_B.default.weight"}.get(method, "hq_token.weight")
    assert all(named[name].grad.any() for name in trained if name.endswith(learn))


class Part(nn.Module):
    """One of a network's two methods as a graph of its own."""

    def __init__(self, network: SamHQ, method: str) -> None:
        super().__init__()
        self.network = network
        self.method = method

    def forward(self, *inputs: Tensor) -> Any:
        return getattr(self.network, self.method)(*inputs)


def in_onnx(network: SamHQ, method: str, inputs: tuple[Tensor, ...], dynamic: Any = None) -> Any:
    part = Part(network, method).eval()
    program = torch.onnx.export(
        part, inputs, dynamo=True, opset_version=21, verbose=False, dynamic_shapes=dynamic and (dynamic,)
    )
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    names = [given.name for given in session.get_inputs()]
    return lambda *values: session.run(None, {n: v.numpy() for n, v in zip(names, values, strict=True)})


def test_onnx_runtime_embeds_and_decodes_any_number_of_points_as_torch_does(reference: Any) -> None:
    _, network, _ = reference
    embedding = network.embed(images()).detach()
    assert np.abs(in_onnx(network, "embed", (images(),))(images())[0] - embedding.numpy()).max() <= 1e-3
    n = torch.export.Dim.DYNAMIC
    example = embedding, torch.rand(1, 3, 2) * SIDE, torch.tensor([[INSIDE, OUTSIDE, -1]])
    decode = in_onnx(network, "decode", example, (None, {1: n}, {1: n}))
    for labels in ([INSIDE], [INSIDE, 2, 3, -1]):
        prompts = torch.rand(1, len(labels), 2) * SIDE, torch.tensor([labels])
        for ours, wanted in zip(decode(embedding, *prompts), network.decode(embedding, *prompts), strict=True):
            assert np.abs(ours - wanted.detach().numpy()).max() <= 1e-3


@pytest.mark.parametrize(
    ("authors", "transformers"),
    {
        "hf_token.weight": "hq_token.weight",
        "hf_mlp.layers.0.weight": "hq_mask_mlp.proj_in.weight",
        "hf_mlp.layers.1.bias": "hq_mask_mlp.layers.0.bias",
        "hf_mlp.layers.2.bias": "hq_mask_mlp.proj_out.bias",
        "compress_vit_feat.0.weight": "compress_vit_conv1.weight",
        "compress_vit_feat.1.bias": "compress_vit_norm.bias",
        "embedding_encoder.3.weight": "encoder_conv2.weight",
        "embedding_maskfeature.3.bias": "mask_conv2.bias",
        "mask_tokens.weight": "mask_tokens.weight",
    }.items(),
)
def test_the_authors_names_become_those_of_transformers(authors: str, transformers: str) -> None:
    name = transformers_name(f"mask_decoder.{authors}")
    assert name == f"mask_decoder.{transformers}"
    assert name in hq().state_dict()

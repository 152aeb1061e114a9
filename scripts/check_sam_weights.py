"""Check that weights in the format of Segment Anything's authors give what the authors' own library gives.

    pip install --no-deps segment-anything
    python scripts/check_sam_weights.py --work scratch --out docs/results/sam_weights.json

The library is no dependency of leanmed. It builds its ViT-B with the random weights that a training starts from, and
noise is added to them: no trained ones are needed to compare arithmetic. It writes them as its authors publish theirs,
a state dict in a `.pth`. leanmed loads that file as `model.weights`, and both answer one image of 1024 pixels with two
points.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from leanmed.benchmark.benchmark import machine
from leanmed.files import write_json
from leanmed.models.prompted import build_prompted
from leanmed.recipe.recipe import Model

SIDE, SPREAD = 1024, 0.02  # pixels; standard deviation of the noise
POINTS, LABELS = ((300.0, 400.0), (700.0, 650.0)), (1, 0)

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def main(
    work: Annotated[Path, typer.Option(help="A folder for the file of weights, 375 MB.")],
    out: Annotated[Path, typer.Option(help="The JSON file to write.")],
) -> None:
    """Build, write, load, compare."""
    from segment_anything import sam_model_registry

    torch.manual_seed(0)
    reference = sam_model_registry["vit_b"]().eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(SPREAD * torch.randn_like(parameter))  # some begin at 0, which would hide faults
    work.mkdir(parents=True, exist_ok=True)
    file = work / "sam_vit_b_random.pth"
    torch.save(reference.state_dict(), file)
    ours = build_prompted(Model(backbone="sam-vit-b", weights=str(file), side=SIDE)).eval()
    image = torch.randn(1, 3, SIDE, SIDE)
    points, labels = torch.tensor([POINTS]), torch.tensor([LABELS])
    with torch.inference_mode():
        wanted = reference_answer(reference, image, points, labels)
        embedding = ours.embed(image)
        found = (embedding, *ours.decode(embedding, points, labels))
    names = ("embedding", "logits of the mask", "expected IoU")
    write_json(
        out,
        {
            "command": shlex.join(["python", "scripts/check_sam_weights.py", *sys.argv[1:]]),
            "machine": machine(),
            "reference": "segment-anything 1.0, ViT-B, random weights, two points",
            "parameters": {
                "reference": sum(p.numel() for p in reference.parameters()),
                "ours": sum(p.numel() for p in ours.parameters()),
            },
            "differences": {name: apart(a, b) for name, a, b in zip(names, wanted, found, strict=True)},
            "masks that differ, as a share of pixels": float(((wanted[1] > 0) != (found[1] > 0)).float().mean()),
        },
    )


def reference_answer(reference: Any, image: Tensor, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the authors' library gives: embedding, logits of one mask, and the IoU that it expects."""
    embedding = reference.image_encoder(image)
    sparse, dense = reference.prompt_encoder(points=(points, labels), boxes=None, masks=None)
    mask, iou = reference.mask_decoder(
        image_embeddings=embedding,
        image_pe=reference.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    return embedding, mask, iou[:, 0]


def apart(wanted: Tensor, found: Tensor) -> dict[str, float]:
    """The largest difference, and the standard deviation of what it is a difference in."""
    if wanted.shape != found.shape:
        raise ValueError(f"expected the shape {tuple(wanted.shape)}, got {tuple(found.shape)}")
    return {"largest": float((wanted - found).abs().max()), "spread": float(wanted.std(correction=0))}


if __name__ == "__main__":
    app()

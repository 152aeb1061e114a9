from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from artifact_fixtures import manifest as made
from leanmed.errors import ArtifactError
from leanmed.manifest import Input, Manifest
from leanmed.phantoms.prostates import write_prostates
from leanmed.reading.mr import open_whole
from leanmed.tasks.kind import AsFile
from leanmed.tasks.segmentation.answer import search
from leanmed.tasks.segmentation.scan import MaskedScan

BRIGHT = 1.0  # standard deviations


@pytest.fixture
def manifest() -> Manifest:
    about = Input(kind="intensities", dtype="float32", scaled="volume", side=32, slices=3, reduced=False)
    return made(task="segmentation", labels=("bright",), threshold=0.5, main_score="dice", input=about)


def bright(pixels: np.ndarray) -> list[np.ndarray]:
    """A graph that marks what is bright in the middle one of three slices."""
    assert pixels.dtype == np.float32
    assert pixels.shape[2] == 3
    confidence = np.where(pixels[..., 1] > BRIGHT, 255, 0).astype(np.uint8)
    return [(confidence > 0).astype(np.uint8), confidence]


def lies_in_place(path: Path, found: MaskedScan, folder: Path) -> None:
    """The mask that is written marks the voxels that SimpleITK finds bright, at the same places in the world."""
    suffix, content = found.file()
    written = folder / f"mask{suffix}"
    written.write_bytes(content)
    image, mask = sitk.ReadImage(str(path)), sitk.ReadImage(str(written))
    voxels = sitk.GetArrayFromImage(image).astype(np.float64)
    wanted = (voxels - voxels.mean()) / voxels.std() > BRIGHT
    assert np.array_equal(sitk.GetArrayFromImage(mask) > 0, wanted)
    for corner in ([0, 0, 0], [*(n - 1 for n in image.GetSize())]):
        one, other = (volume.TransformIndexToPhysicalPoint(corner) for volume in (image, mask))
        assert np.allclose(one, other, atol=1e-3)
    voxel = np.prod(image.GetSpacing()) / 1000
    assert found.millilitres["bright"] == pytest.approx(wanted.sum() * voxel, rel=1e-3)


def test_a_mask_of_a_whole_volume_lies_on_it_however_it_is_stored(tmp_path: Path, manifest: Manifest) -> None:
    write_prostates(tmp_path / "data", cases=1, sites=2, side=40, slices=5)
    volumes = [p for p in sorted((tmp_path / "data").rglob("*.nii.gz")) if "segmentation" not in p.name]
    assert len(volumes) == 2
    for path in volumes:
        found = search(open_whole(path), bright, manifest, None)
        assert isinstance(found, AsFile)
        lies_in_place(path, found, tmp_path)
        assert found.as_json()["slices"] == 5
        assert found.cells() == {"ml bright": found.millilitres["bright"], "familiar": ""}
        assert found.picture().height > 40


def test_an_artifact_for_photographs_has_no_mask_of_a_volume(manifest: Manifest) -> None:
    other = manifest.model_copy(update={"input": Input(side=32, reduced=False)})
    with pytest.raises(ArtifactError, match="for slices of MR, got one that marks a photograph"):
        search(None, bright, other, None)


@pytest.mark.realdata
def test_masks_of_real_volumes_lie_in_place(tmp_path: Path, manifest: Manifest, real_data) -> None:
    volumes = sorted((real_data("prostate-samples") / "prostate158").rglob("t2.nii.gz"))
    assert volumes
    for path in volumes:
        lies_in_place(path, search(open_whole(path), bright, manifest, None), tmp_path)

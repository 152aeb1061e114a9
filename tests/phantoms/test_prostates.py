from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import SimpleITK as sitk

from leanmed.data import read_mask, read_pixels, read_records
from leanmed.errors import OutputError
from leanmed.phantoms.prostates import AXES, made_case, made_site, write_prostates


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_prostates(tmp_path_factory.mktemp("made") / "prostates", cases=2, sites=3, side=48, slices=8, seed=4)


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(written, tmp_path):
    again = write_prostates(tmp_path / "again", cases=2, sites=3, side=48, slices=8, seed=4)
    other = write_prostates(tmp_path / "other", cases=1, sites=1, side=48, slices=8, seed=5)
    names = [path.relative_to(written) for path in sorted(written.rglob("*.nii.gz"))]
    assert len(names) == 12
    assert all((written / name).read_bytes() == (again / name).read_bytes() for name in names)
    first = "site-1/Case00.nii.gz"
    assert (written / first).read_bytes() != (other / first).read_bytes()


def test_fewer_cases_and_sites_are_the_first_of_more(written, tmp_path):
    fewer = write_prostates(tmp_path / "fewer", cases=1, sites=2, side=48, slices=8, seed=4)
    name = "site-2/Case00.nii.gz"
    assert (fewer / name).read_bytes() == (written / name).read_bytes()


def test_a_folder_that_holds_something_is_refused(written):
    with pytest.raises(OutputError):
        write_prostates(written)


def test_every_slice_of_every_site_is_read_in_the_patient_s_order(written):
    found = read_records("mr-sites", written)
    assert Counter(record.site for record in found) == dict.fromkeys(("site-1", "site-2", "site-3"), 16)
    assert len({record.group for record in found}) == 6
    for number in range(2):  # the second is stored with left and right, and front and back, swapped
        case = [record for record in found if record.group == f"site-{number + 1}/Case01"]
        made = made_case(4, number, 1, side=48, slices=8)
        assert np.array_equal([read_mask(record, ["object"]) for record in case], made.prostate)
        scores = (made.voxels - made.voxels.mean()) / made.voxels.std()
        np.testing.assert_allclose(read_pixels(case[3])[..., 1], scores[3], atol=1e-4)


def test_voxels_lie_where_the_site_says_however_they_are_stored(written):
    """The middle of the field is at 0, 0, 0, and left is on the patient's left."""
    for number in range(2):
        made, site = made_case(4, number, 0, side=48, slices=8), made_site(4, number)
        image = sitk.ReadImage(str(written / f"site-{number + 1}/Case00_segmentation.nii.gz"))
        z, y, x = np.argwhere(sitk.GetArrayFromImage(image) > 0).mean(0)
        steps = np.array([site.thickness, site.field / 48, site.field / 48])
        wanted = (np.argwhere(made.prostate).mean(0) - [3.5, 23.5, 23.5]) * steps
        np.testing.assert_allclose(image.TransformContinuousIndexToPhysicalPoint((x, y, z)), wanted[::-1], atol=1e-2)


def test_a_prostate_has_the_volume_of_its_ellipsoid_and_ends_within_the_field():
    low, high = (4 / 3 * np.pi * np.prod([half[end] for half in AXES]) / 1000 for end in (0, 1))
    for number in range(3):
        made, site = made_case(0, number, 0, slices=16), made_site(0, number)
        millilitres = made.prostate.sum() * (site.field / 96) ** 2 * site.thickness / 1000
        assert 0.8 * low < millilitres < 1.2 * high
        assert not made.prostate[[0, -1]].any()
        assert not made.prostate[:, [0, -1]].any()


def test_noise_has_the_deviation_of_its_site():
    """In the air beside the body, where the signal is faint, magnitudes have Rayleigh's mean of 1.25 deviations."""
    for number in range(6):
        site = made_site(0, number)
        corner = made_case(0, number, 0).voxels[:, :8, :8].mean() / site.scale
        coil = 1 if site.endorectal else 1 + site.coil
        faint = np.hypot(1.2533 * site.noise, site.levels[0] * coil)
        assert corner == pytest.approx(faint, rel=0.35)


def test_sites_differ_and_cases_of_one_site_share_its_scanner():
    sites = [made_site(0, number) for number in range(6)]
    for name in ("bias", "noise", "blur", "field", "thickness", "scale"):
        assert len({getattr(site, name) for site in sites}) == 6
    assert len({site.endorectal for site in sites}) == 2
    one, other = made_case(0, 1, 0), made_case(0, 1, 1)
    assert not np.array_equal(one.prostate, other.prostate)

"""Ranges and moments from calibration images."""

from __future__ import annotations

import numpy as np
import pytest
from made_networks import found_network, samples

from leanmed.compress import activation_ranges
from leanmed.compress.activation_ranges import (
    activation_names,
    channel_ranges,
    input_moments,
    tensor_ranges,
    tensor_values,
)


def test_minmax_ranges_are_the_extremes_and_hold_zero() -> None:
    network, found = found_network(), tensor_ranges(found_network(), samples())
    seen = [values["wide_6"] for values in tensor_values(network.core, ["wide_6"], samples())]
    assert found["wide_6"] == (0.0, pytest.approx(float(np.max(seen))))
    assert set(found) == set(activation_names(network))
    assert all(low <= 0 <= high for low, high in found.values())


def test_percentile_ranges_leave_out_an_outlier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation_ranges, "PERCENTILE", 99.0)
    network = found_network()
    extreme = [{"input": sample["input"].copy()} for sample in samples()]
    extreme[0]["input"][0, 0, 0, 0] = 100.0
    assert tensor_ranges(network, extreme)["input"][1] == 100.0
    assert tensor_ranges(network, extreme, "percentile")["input"][1] < 2.0


def test_moments_are_those_of_the_layers_inputs() -> None:
    network, found = found_network(), input_moments(found_network(), samples())
    rows = np.concatenate([values["row"] for values in tensor_values(network.core, ["row"], samples())]).astype(
        np.float64
    )
    assert found["linear"].mean == pytest.approx(rows.mean(axis=0)[None], abs=1e-4)
    assert found["linear"].second[0] == pytest.approx(rows.T @ rows / len(rows), abs=1e-3)
    assert found["depth"].second.shape == (32, 9, 9)


def test_moments_taken_in_several_passes_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = input_moments(found_network(), samples())
    monkeypatch.setattr(activation_ranges, "MOMENT_BYTES", 1)
    parts = input_moments(found_network(), samples())
    assert list(parts) == list(whole)
    assert all(np.allclose(parts[name].second, whole[name].second, rtol=1e-4) for name in whole)


def test_a_layer_with_too_many_inputs_has_no_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation_ranges, "MAX_INPUTS", 40)
    assert set(input_moments(found_network(), samples()[:2])) == {"stem", "spread", "depth", "narrow", "wide", "head"}


def test_channel_ranges_are_per_channel() -> None:
    found = channel_ranges(found_network(), ["narrow"], samples())["narrow"]
    assert found.shape == (2, 16)
    assert (found[0] <= found[1]).all()


def test_percentiles_are_the_same_when_few_tensors_fit_in_memory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    together = tensor_ranges(found_network(), samples(), "percentile")
    monkeypatch.setattr(activation_ranges, "VALUE_BYTES", 1)
    told: list[tuple[int, int]] = []
    step = lambda done, total: told.append((done, total))  # noqa: E731
    assert tensor_ranges(found_network(), samples(), "percentile", step) == together
    assert [done for done, _ in told] == list(range(1, told[0][1] + 1))
    assert {total for _, total in told} == {len(told)}

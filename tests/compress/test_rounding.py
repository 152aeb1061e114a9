"""Weights to integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from leanmed.compress.activation_ranges import Moments
from leanmed.compress.network import Layer
from leanmed.compress.rounding import gptq_codes, nearest, round_layer


def linear(outputs: int, inputs: int) -> Layer:
    return Layer("linear", "n", "Gemm", "x", "y", "w", "b", (outputs, inputs), 0, {"transB": 1})


def moments_of(x: Any) -> Moments:
    """Of samples (n, k)."""
    return Moments(x.mean(axis=0)[None], (x.T @ x / len(x))[None])


def test_an_eight_bit_step_is_the_largest_weight_over_127() -> None:
    rounded = round_layer(linear(2, 3), np.float32([[1.27, -0.5, 0.004], [0, 2.54, 0.031]]), None, None, 8, gptq=False)
    assert rounded.codes.tolist() == [[127, -50, 0], [0, 127, 2]]
    assert rounded.scale == pytest.approx([0.01, 0.02])
    assert rounded.bits == 8
    assert rounded.bias is None


def test_codes_stay_within_their_bits() -> None:
    assert nearest(np.array([-99.0, -8.4, 7.6, 99.0]), np.float64(1), 4).tolist() == [-8, -8, 7, 7]
    assert nearest(np.array([-999.0, 999.0]), np.float64(1), 8).tolist() == [-128, 127]


def test_the_weights_are_codes_times_their_channels_scale() -> None:
    layer = Layer("m", "n", "MatMul", "x", "y", "w", None, (2, 3), 1, {})
    weight = np.float32([[1.27, 0.5, 2.0], [0.1, -0.25, 1.0]])
    rounded = round_layer(layer, weight, None, None, 8, gptq=False)
    assert rounded.scale == pytest.approx([0.01, 0.5 / 127, 2 / 127])
    assert np.abs(rounded.weight(layer) - weight).max() <= rounded.scale.max() / 2 + 1e-6


def test_the_bias_takes_up_what_rounding_does_to_the_mean() -> None:
    x = np.array([[1.0, 2.0], [3.0, 2.0]])
    weight, bias = np.float32([[1.0, 0.26]]), np.float32([0.5])
    rounded = round_layer(linear(1, 2), weight, bias, moments_of(x), 4, gptq=False)
    assert rounded.bias is not None
    before = (x @ weight.T + bias).mean()
    after = (x @ rounded.weight(linear(1, 2)).T + rounded.bias).mean()
    assert after == pytest.approx(before, abs=1e-6)


def test_gptq_on_two_equal_inputs_moves_the_first_error_onto_the_second() -> None:
    # Both inputs are always equal, so only the sum of the codes matters: 0.4 + 0.4 is nearest to 1 + 0.
    rows = np.array([[[0.4, 0.4]]])
    second = np.array([[[1.0, 1.0], [1.0, 1.0]]])
    assert nearest(rows, np.float64(1), 8).sum() == 0
    assert gptq_codes(rows, second, np.ones((1, 1)), 8).sum() == 1


def test_gptq_with_independent_inputs_is_rounding_to_nearest() -> None:
    rows = np.random.default_rng(0).normal(size=(2, 3, 5))
    second = np.broadcast_to(np.diag([5.0, 4.0, 3.0, 2.0, 1.0]), (2, 5, 5))
    scale = np.full((2, 3), 0.1)
    assert np.array_equal(gptq_codes(rows, second, scale, 8), nearest(rows, scale[..., None], 8))


@pytest.mark.parametrize("bits", [4, 8])
def test_gptq_beats_rounding_to_nearest_on_inputs_that_go_together(bits: int) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 160)) + 0.1 * rng.normal(size=(400, 160)) + 1
    weight = rng.normal(size=(8, 160)).astype(np.float32)
    known = moments_of(x)
    errors = [
        np.mean(
            (x @ (round_layer(linear(8, 160), weight, None, known, bits, gptq=g).weight(linear(8, 160)) - weight).T)
            ** 2
        )
        for g in (False, True)
    ]
    assert errors[1] < errors[0] / 4


def test_the_error_in_decibels_is_that_of_the_layers_output() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(5000, 6)) + 1
    weight, bias = rng.normal(size=(3, 6)).astype(np.float32), np.zeros(3, np.float32)
    rounded = round_layer(linear(3, 6), weight, bias, moments_of(x), 4, gptq=True)
    exact = x @ weight.T
    error = x @ rounded.weight(linear(3, 6)).T + rounded.bias - exact
    assert rounded.error_db == pytest.approx(10 * np.log10(exact.var(axis=0).sum() / error.var(axis=0).sum()), abs=1e-3)


def test_a_floor_keeps_the_step_large_enough() -> None:
    rounded = round_layer(linear(1, 2), np.float32([[1e-6, 0]]), None, None, 8, gptq=False, floor=np.array([0.5]))
    assert rounded.scale.tolist() == [0.5]
    assert rounded.codes.tolist() == [[0, 0]]

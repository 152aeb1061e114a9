"""How much noise each rounding makes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_networks import found_network, rounded_layers, samples

from leanmed.compress.activation_ranges import tensor_ranges, tensor_values
from leanmed.compress.sensitivity import of_beginnings, of_weights, promote, spare_head


def test_the_noise_of_a_layers_weights_is_the_answers_error_over_its_variance() -> None:
    network, rounded = found_network(), rounded_layers(found_network(), 4, names=["back"])
    found = of_weights(network, rounded, samples())
    layer = next(layer for layer in network.layers if layer.name == "back")
    changed = network.replace({layer.weight: rounded["back"].weight(layer)})
    exact, rough = (
        np.array([v["logit"].item() for v in tensor_values(n.core, ["logit"], samples())]) for n in (network, changed)
    )
    assert found == {"back": pytest.approx(np.mean((rough - exact) ** 2) / exact.var(), rel=1e-4)}


def test_four_bits_make_more_noise_than_eight() -> None:
    network = found_network()
    four, eight = (of_weights(network, rounded_layers(network, bits), samples()) for bits in (4, 8))
    assert all(four[name] > 10 * eight[name] for name in four)


def test_a_wider_range_makes_more_noise() -> None:
    network, limits = found_network(), tensor_ranges(found_network(), samples())
    rounded = rounded_layers(network, 8)
    wide = {name: (8 * low, 8 * high) for name, (low, high) in limits.items()}
    of_weights_alone, narrow, wider = (
        of_beginnings(network, rounded, r, [2], samples())[2] for r in ({}, limits, wide)
    )
    assert wider - of_weights_alone > 10 * (narrow - of_weights_alone)


def test_the_noise_of_a_beginning_is_that_of_its_weights_and_of_the_tensors_it_would_free() -> None:
    network, limits = found_network(), tensor_ranges(found_network(), samples())
    rounded = rounded_layers(network, 4)
    first = network.layers[0].name
    weights_alone = of_beginnings(network, rounded, {}, [1], samples())[1]
    assert weights_alone == pytest.approx(of_weights(network, {first: rounded[first]}, samples())[first], rel=1e-6)
    nothing, both = of_beginnings(network, rounded, limits, [0, 1], samples()).values()
    assert nothing == 0
    assert both > weights_alone


def test_of_one_image_the_noise_is_a_share_of_how_its_own_answer_varies() -> None:
    network = replace(found_network(), outputs=("sum",))
    rounded, one = rounded_layers(network, 8), samples()[:1]
    found = of_weights(network, rounded, one)
    assert 0 < found["stem"] < 0.01
    assert 0 < found["back"] < 0.01


def test_the_layers_with_most_noise_for_a_byte_keep_eight_bits() -> None:
    layers = [layer for layer in found_network().layers if layer.name in ("stem", "depth", "head")]
    sizes = {layer.name: layer.size for layer in layers}
    assert sizes == {"stem": 216, "depth": 288, "head": 1024}
    kept = promote(layers, {"stem": 0.2, "depth": 0.3, "head": 0.4}, share=0.2)
    assert list(kept) == ["depth"]  # 0.3 / 288 comes first; with 216 more the 305 weights of a fifth would be exceeded
    assert kept["depth"] == "4-bit weights would add 30 % of the answer's variance as noise"


def test_only_as_much_of_the_head_is_spared_as_the_share_allows() -> None:
    network = found_network()
    rounded, limits = rounded_layers(network, 8), tensor_ranges(network, samples())
    assert spare_head(network, rounded, limits, samples(), share=0.01) == {}
    spared = spare_head(network, rounded, limits, samples(), share=0.3)
    assert list(spared) == [layer.name for layer in network.layers][: len(spared)]
    assert 0 < len(spared) < 4

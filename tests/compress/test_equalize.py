"""Cross-layer equalization leaves the network's function alone."""

from __future__ import annotations

import numpy as np
from made_networks import answer, found_network, made_images, made_network, samples

from leanmed.compress.activation_ranges import channel_ranges, network_inputs
from leanmed.compress.equalize import equalize, find_pairs
from leanmed.compress.graph import parse, simplify
from leanmed.compress.network import find_network


def test_pairs_are_layers_with_only_a_clip_or_nothing_between_them() -> None:
    pairs = {(pair.first.name, pair.second.name): pair for pair in find_pairs(found_network())}
    assert set(pairs) == {("stem", "spread"), ("spread", "depth"), ("depth", "narrow"), ("wide", "back")}
    assert pairs["stem", "spread"].ceiling == 6.0
    assert not pairs["stem", "spread"].linear


def test_equalizing_changes_no_answer() -> None:
    images = made_images(24, seed=7)
    before, after = answer(found_network().model, images), answer(equalize(found_network(), samples()).model, images)
    assert np.abs(before - after).max() < 1e-4


def test_channels_before_a_depthwise_layer_come_to_one_range() -> None:
    equalized = equalize(found_network(), samples())
    spread = [channel_ranges(n, ["spread_6"], samples())["spread_6"][1] for n in (found_network(), equalized)]
    alive = spread[0] > 0
    ratio = [s[alive].max() / s[alive].min() for s in spread]
    assert ratio[1] < 1.3 < ratio[0]


def test_a_linear_pair_is_centred_too() -> None:
    # Without the residual, nothing but the next layer reads what `narrow` and `back` give.
    network = find_network(simplify(parse(made_network(residual=False))))
    pairs = [(pair.first.name, pair.second.name) for pair in find_pairs(network) if pair.linear]
    assert pairs == [("narrow", "wide"), ("back", "head")]
    samples = network_inputs(network, made_images(24, seed=7))
    equalized = equalize(network, samples)
    low, high = channel_ranges(equalized, ["narrow"], samples)["narrow"]
    assert np.abs(low + high).max() < 1e-3
    images = made_images(24, seed=7)
    assert np.abs(answer(network.model, images) - answer(equalized.model, images)).max() < 1e-4

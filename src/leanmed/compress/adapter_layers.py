"""The layers that adapters put into a network, and how they hang on to the network's own.

A bottleneck is a child of the module that it adapts, and a forward hook applies it. So the network's own tensors keep
their names, and the network answers as before when hook and child are gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHILD = "adapter"


class Bottleneck(nn.Module):
    """(..., d) to (..., d): down to `width`, an activation, and up again; zero before the first step of training.

    Args:
        dim: d.
        width: of the bottleneck.
        gelu: GELU as in Med-SA, in place of ReLU as in HA-SAM.
        scale: factor of the result.
        like: the new weights are of its type and on its device.
    """

    def __init__(self, dim: int, width: int, *, gelu: bool, scale: float, like: Tensor) -> None:
        super().__init__()
        self.down = nn.Linear(dim, width, device=like.device, dtype=like.dtype)
        self.up = nn.Linear(width, dim, device=like.device, dtype=like.dtype)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.activation = F.gelu if gelu else F.relu
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        found: Tensor = self.up(self.activation(self.down(x)))
        return found if self.scale == 1 else self.scale * found


def attach(module: nn.Module, bottleneck: Bottleneck, *, series: bool) -> None:
    """Let a bottleneck change what a module gives.

    Args:
        module: an attention or an MLP.
        bottleneck: becomes its child.
        series: it takes the module's output; else it takes the module's input. What it makes is added to the output.
    """
    module.add_module(CHILD, bottleneck)
    module.register_forward_hook(_in_series if series else _parallel, with_kwargs=True)


def detach(module: nn.Module) -> bool:
    """Take a bottleneck away; whether there was one."""
    if not isinstance(getattr(module, CHILD, None), Bottleneck):
        return False
    delattr(module, CHILD)
    for key, hook in list(module._forward_hooks.items()):
        if hook in (_in_series, _parallel):
            del module._forward_hooks[key]
            module._forward_hooks_with_kwargs.pop(key, None)
    return True


# Hooks find the bottleneck through the module they are called with, so that a copy of a network uses its own.
def _in_series(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
    if isinstance(output, tuple):  # transformers' attention gives its weights too
        return (output[0] + module.adapter(output[0]), *output[1:])
    return output + module.adapter(output)


def _parallel(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
    return output + module.adapter(args[0] if args else next(iter(kwargs.values())))


class SplitQkv(nn.Module):
    """A linear layer that gives queries, keys and values side by side, as three, so that each can be adapted alone.

    Args:
        fused: (..., d) to (..., 3 e): queries first, values last.
    """

    def __init__(self, fused: nn.Linear) -> None:
        super().__init__()
        weights = fused.weight.detach().chunk(3)
        biases = fused.bias.detach().chunk(3) if fused.bias is not None else (None,) * 3
        self.q, self.k, self.v = map(_linear, weights, biases)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return torch.cat([self.q(x), self.k(x), self.v(x)], -1)

    def fused(self) -> nn.Linear:
        """One layer again, when q and v are linear layers again."""
        layers = (self.q, self.k, self.v)
        bias = None if self.q.bias is None else torch.cat([layer.bias.detach() for layer in layers])
        return _linear(torch.cat([layer.weight.detach() for layer in layers]), bias)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")  # it draws nothing
    layer.weight = nn.Parameter(weight.clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone())
    return layer

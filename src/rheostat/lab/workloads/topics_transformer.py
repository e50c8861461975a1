"""The text of Python's own help and a character transformer."""

from __future__ import annotations

import math
from typing import Annotated

import annotated_types as at
import torch
from torch import Tensor, nn
from torch.nn import functional

from rheostat.core.hyper import Count
from rheostat.core.registry import register
from rheostat.lab.tensor_task import Rows, TensorTask, Trial
from rheostat.lab.workload import Metric, Workload

HELD_OUT = 256
"""Windows of the held-out topics that are looked at, evenly spread over them."""
HEAD = 16
"""Numbers a head of attention."""


@register("workload", "topics_transformer")
def topics_transformer(
    layers: Count = 2,
    heads: Count = 4,
    window: Annotated[int, at.Ge(2), at.Le(512)] = 64,
    batch: Annotated[int, at.Ge(1), at.Le(512)] = 16,
) -> Workload:
    """The topics of Python's help (some 460,000 characters) and a character transformer.

    Every tenth topic, in the order of their names, is held out: 256 windows spread evenly over
    these texts; the others are cut into windows that do not overlap (some 6,400 as it is).
    Characters are known by their rank among those that occur. The model has learned positions, and
    in each layer attention with 16 numbers a head and a perceptron of four times the width with
    GELU, both after a LayerNorm (some 117,000 parameters as it is); it predicts each next character
    under cross-entropy. The texts are those of the Python that runs it: between Python's versions
    the fingerprint of the data differs, and so do the numbers.
    Source: `pydoc_data.topics` of the standard library, which is made from the Python reference.
    layers: blocks of attention and perceptron.
    heads: of attention, 16 numbers each; so the width of the model is 16 times as much.
    window: characters that the model sees, and predicts.
    batch: windows a batch; the last, smaller batch of an epoch is left out.
    """

    def load() -> TensorTask:
        train, held_out, characters = _windows(window)

        def net() -> nn.Module:
            return _Transformer(characters, HEAD * heads, layers, heads, window)

        def shift(examples: Rows) -> Rows:
            # Another alphabet: the characters in reversed order.
            return characters - 1 - examples[0], characters - 1 - examples[1]

        return TensorTask(train, held_out, Trial(net, _loss, _measure, shift), batch)

    worst = math.log(128)  # at least a guess among all characters
    return Workload({"test_loss": Metric("minimize", worst, "nats a character", 0.0)}, load)


def _windows(window: int) -> tuple[Rows, Rows, int]:
    """Training windows, held-out windows, and how many characters there are."""
    from pydoc_data.topics import topics

    texts = [topics[name] for name in sorted(topics)]
    characters = sorted(set("".join(texts)))
    rank = {character: index for index, character in enumerate(characters)}

    def cut(chosen: list[str]) -> Tensor:
        numbers = torch.tensor([rank[character] for character in "".join(chosen)])
        return numbers[: len(numbers) // (window + 1) * (window + 1)].view(-1, window + 1)

    train = cut([text for index, text in enumerate(texts) if index % 10])
    held_out = cut(texts[::10])
    spread = torch.linspace(0, len(held_out) - 1, HELD_OUT).long()
    held_out = held_out[spread]
    return (
        (train[:, :-1].contiguous(), train[:, 1:].contiguous()),
        (held_out[:, :-1].contiguous(), held_out[:, 1:].contiguous()),
        len(characters),
    )


class _Transformer(nn.Module):
    def __init__(self, characters: int, width: int, layers: int, heads: int, window: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, width)
        self.positions = nn.Embedding(window, width)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, characters)

    def forward(self, text: Tensor) -> Tensor:
        """Characters (n, window) -> scores of the next ones (n, window, characters)."""
        places = torch.arange(text.shape[1], device=text.device)
        return self.head(self.norm(self.blocks(self.embedding(text) + self.positions(places))))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.attention = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.norm_perceptron = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, window, width) -> the same shape; each place sees those before it."""
        n, window, width = x.shape
        parts = self.attention(self.norm_attention(x)).view(n, window, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.mix(seen.transpose(1, 2).reshape(n, window, width))
        return x + self.perceptron(self.norm_perceptron(x))


def _loss(scores: Tensor, text: Tensor) -> Tensor:
    return functional.cross_entropy(scores.flatten(0, 1), text.flatten())


def _measure(scores: Tensor, text: Tensor) -> dict[str, float]:
    return {"test_loss": _loss(scores, text).item()}

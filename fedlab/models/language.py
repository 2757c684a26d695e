"""Language models and text classifiers as torch modules, with low-rank adapters where wished.

They become models by `fedlab.models.TorchModel`:

    TorchModel(module, next_token_loss, inputs=64, tokens=True, targets="inputs", start="given")

Importing this takes the extra ``llm``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlab.core.extras import imported
from fedlab.core.validation import whole_number


class Causal(nn.Module):  # type: ignore[misc]
    """From tokens, (n, length), to scores of the next one at each place, (n, length, words).

    Parameters
    ----------
    model : transformers.PreTrainedModel
        With a language model's head, which is the layer ``head``.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.body, self.head = model.base_model, model.get_output_embeddings()

    def forward(self, tokens: Tensor) -> Tensor:
        entered = self.body(input_ids=tokens, use_cache=False).last_hidden_state
        return self.head(entered)


class Pooled(nn.Module):  # type: ignore[misc]
    """From tokens, (n, length), to a vector a text: the mean over its tokens, without padding."""

    def __init__(self, encoder: Any, padding: int) -> None:
        super().__init__()
        self.encoder, self.padding = encoder, padding

    def forward(self, tokens: Tensor) -> Tensor:
        read = (tokens != self.padding).long()
        each = self.encoder(input_ids=tokens, attention_mask=read).last_hidden_state
        share = read[..., None].to(each.dtype)
        return (each * share).sum(1) / share.sum(1).clamp(min=1)


class Classifier(nn.Module):  # type: ignore[misc]
    """An encoder, and the layer ``head`` from its vectors to scores of classes."""

    def __init__(self, encoder: nn.Module, dimensions: int, classes: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(dimensions, classes)
        nn.init.zeros_(self.head.weight)  # so that it begins alike wherever it is made
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(tokens))


def next_token_loss(scores: Tensor, tokens: Tensor) -> Tensor:
    """Return the mean -log p of each token but the first, given those before it."""
    return functional.cross_entropy(scores[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def with_adapters(
    module: nn.Module,
    rank: int,
    layers: tuple[str, ...],
    seed: int = 0,
    train: tuple[str, ...] = (),
) -> nn.Module:
    """Return a module whose linear layers of these names have adapters; all else is frozen.

    A layer computes (W + B A) x, with A drawn from the seed and B at zero. The module is changed in
    place, by PEFT, with names as the algorithms of `fedlab.algorithms.lora` know them.

    Parameters
    ----------
    module : nn.Module
    rank : int
    layers : tuple of str
        Ends of layers' names, such as ``("q_proj", "v_proj")``.
    seed : int
    train : tuple of str
        Layers that train as they are, such as ``("head",)``.

    Source: Hu et al., "LoRA: low-rank adaptation of large language models", ICLR 2022; alpha is the
    rank, so that B A is added as it is.
    """
    whole_number(rank, "rank", 1)
    peft = imported("peft", "llm", "low-rank adapters")
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=list(layers), lora_dropout=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = peft.inject_adapter_in_model(config, module)
    for name in train:
        module.get_submodule(name).requires_grad_(True)
    return module

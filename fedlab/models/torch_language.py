"""Language models and text classifiers as torch modules: see `fedlab.models.language`.

Importing this takes the extra ``llm``.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional


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
        self.dimensions = int(encoder.config.hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        read = (tokens != self.padding).long()
        each = self.encoder(input_ids=tokens, attention_mask=read).last_hidden_state
        share = read[..., None].to(each.dtype)
        return (each * share).sum(1) / share.sum(1).clamp(min=1)


class Classifier(nn.Module):  # type: ignore[misc]
    """An encoder, and the layer ``head`` from its vectors to scores of classes."""

    def __init__(self, encoder: Pooled, classes: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.dimensions, classes)
        nn.init.zeros_(self.head.weight)  # so that it begins alike wherever it is made
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(tokens))


def next_token_loss(scores: Tensor, tokens: Tensor) -> Tensor:
    """Return the mean -log p of each token but the first, given those before it."""
    # In float32, whatever the module's type: a loss of 6.5 in bf16 has two digits.
    return functional.cross_entropy(scores[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())

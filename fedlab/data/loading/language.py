"""Pre-trained language models, as torch modules, with the tokenizers that belong to them.

The files are pulled and verified like any other source, and only plain formats are read (GGUF,
safetensors): none of the packages that they come in is imported, and nothing asks a network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from fedlab.core.extras import imported
from fedlab.core.typing import F32
from fedlab.core.validation import whole_number
from fedlab.data.loading.pull import pull
from fedlab.data.loading.registry import Origin, source


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A module with its weights, and how texts become tokens.

    Attributes
    ----------
    module : torch.nn.Module
        From tokens, (n, length) whole numbers, to scores of the next one, (n, length, words); or,
        of an encoder, to a vector a text, (n, d).
    tokens : callable
        From texts to a list of token numbers for each.
    words : int
        Token numbers there are.
    padding : int
        The number that fills short rows.
    origin : Origin
    """

    module: Any
    tokens: Callable[[Sequence[str]], list[list[int]]]
    words: int
    padding: int
    origin: Origin

    def blocks(self, texts: Iterable[str], length: int) -> F32:
        """Return texts as one stream of tokens, cut into rows of equal length, (n, length).

        What is left at the end is dropped. float32 holds token numbers exactly.
        """
        whole_number(length, "length", 2)
        stream = list(chain.from_iterable(self.tokens(list(texts))))
        rows = len(stream) // length
        return np.array(stream[: rows * length], np.float32).reshape(rows, length)

    def padded(self, texts: Iterable[str], length: int) -> F32:
        """Return a row of tokens for each text, cut or filled to a length, (n, length)."""
        whole_number(length, "length", 1)
        rows = self.tokens(list(texts))
        table = np.full((len(rows), length), self.padding, np.float32)
        for row, tokens in zip(table, rows, strict=True):
            row[: len(tokens)] = tokens[:length]
        return table


def load_smollm2() -> Pretrained:
    """Load SmolLM2-135M-Instruct, a small language model, with its weights as float32.

    The weights come in four bits each (GGUF, Q4_1), and are widened when they are read.

    Raises
    ------
    ImportError
        If the extra ``llm`` is not installed.
    DataUnavailable, DataChanged
        As `fedlab.data.pull` does.

    Examples
    --------
    ::

        pretrained = load_smollm2()
        pretrained.blocks(["Federated learning trains where the data are."], length=4)
    """
    transformers = imported("transformers", "llm", "SmolLM2")
    imported("gguf", "llm", "SmolLM2")
    torch = imported("torch", "llm", "SmolLM2")
    [path] = pull("smollm2")
    given = {"gguf_file": path.name, "local_files_only": True}
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, **given)
    whole = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, dtype=torch.float32, **given
    )

    def tokens(texts: Sequence[str]) -> list[list[int]]:
        return tokenizer(list(texts), add_special_tokens=False)["input_ids"]  # type: ignore[no-any-return]

    end = int(tokenizer.eos_token_id)
    words = int(whole.config.vocab_size)
    from fedlab.models.language import Causal

    return Pretrained(Causal(whole).eval(), tokens, words, end, source("smollm2").origin_of(words))


def load_minilm() -> Pretrained:
    """Load all-MiniLM-L6-v2, a sentence encoder, as a torch module (see `fedlab.data.embed`).

    Raises
    ------
    ImportError
        If the extra ``llm`` is not installed.
    DataUnavailable, DataChanged
        As `fedlab.data.pull` does.
    """
    transformers = imported("transformers", "llm", "MiniLM as a torch module")
    tokenizers, safetensors = (
        imported(name, "llm", "MiniLM as a torch module")
        for name in ("tokenizers", "safetensors.torch")
    )
    weights, words = pull("minilm")
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = transformers.BertConfig(**sizes, **quiet, num_attention_heads=12)
    encoder = transformers.BertModel(config, add_pooling_layer=False)
    held = safetensors.load_file(weights)
    encoder.load_state_dict({name: held[name] for name in encoder.state_dict()})
    tokenizer = tokenizers.Tokenizer.from_file(str(words))
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def tokens(texts: Sequence[str]) -> list[list[int]]:
        return [found.ids for found in tokenizer.encode_batch(list(texts))]

    origin = source("minilm").origin_of(config.vocab_size)
    from fedlab.models.language import Pooled

    return Pretrained(Pooled(encoder, padding=0).eval(), tokens, config.vocab_size, 0, origin)

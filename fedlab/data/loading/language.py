"""Pre-trained language models, as torch modules, with the tokenizers that belong to them.

The files are pulled and verified like any other source, and only plain formats are read (GGUF,
safetensors): none of the packages that they come in is imported, and nothing asks a network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any, Literal
from unittest.mock import patch

import numpy as np

from fedlab.core.extras import imported
from fedlab.core.typing import F32
from fedlab.core.validation import known, whole_number
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
    text : callable
        From token numbers to the text that they stand for.
    words : int
        Token numbers there are.
    padding : int
        The number that fills short rows.
    origin : Origin
    """

    module: Any
    tokens: Callable[[Sequence[str]], list[list[int]]]
    text: Callable[[Sequence[int]], str]
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


def load_smollm2(numbers: Literal["f32", "bf16"] = "f32") -> Pretrained:
    """Load SmolLM2-135M-Instruct, a small language model.

    Parameters
    ----------
    numbers : {"f32", "bf16"}
        What the module computes in. The file has four bits a weight (GGUF, Q4_1), so that "bf16"
        loses next to nothing; it takes half the time on processors that know it, and more on
        others.

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
    known(numbers, ("f32", "bf16"), "type of numbers")
    transformers, gguf, torch = (
        imported(name, "llm", "SmolLM2") for name in ("transformers", "gguf", "torch")
    )
    [path] = pull("smollm2")
    given = {"gguf_file": path.name, "local_files_only": True}
    kind = {"f32": torch.float32, "bf16": torch.bfloat16}[numbers]
    with _read_once(transformers, gguf):
        tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, **given)
        whole = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, dtype=torch.float32, **given
        ).to(kind)

    def tokens(texts: Sequence[str]) -> list[list[int]]:
        found: list[list[int]] = (
            tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
        )
        return found

    end = int(tokenizer.eos_token_id)
    words = int(whole.config.vocab_size)
    from fedlab.models.torch_language import Causal

    module, origin = Causal(whole).eval(), source("smollm2").origin_of(words)
    return Pretrained(module, tokens, tokenizer.decode, words, end, origin)


def load_minilm(trained: bool = True, seed: int = 0) -> Pretrained:
    """Load all-MiniLM-L6-v2, a sentence encoder, as a torch module (see `fedlab.data.embed`).

    Parameters
    ----------
    trained : bool
        Whether with its weights; else they are drawn from the seed, as before any training.
    seed : int

    Raises
    ------
    ImportError
        If the extra ``llm`` is not installed.
    DataUnavailable, DataChanged
        As `fedlab.data.pull` does.
    """
    transformers, torch, tokenizers, safetensors = (
        imported(name, "llm", "MiniLM as a torch module")
        for name in ("transformers", "torch", "tokenizers", "safetensors.torch")
    )
    weights, words = pull("minilm")
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = transformers.BertConfig(**sizes, **quiet, num_attention_heads=12)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = transformers.BertModel(config, add_pooling_layer=False)
    if trained:
        held = safetensors.load_file(weights)
        encoder.load_state_dict({name: held[name] for name in encoder.state_dict()})
    tokenizer = tokenizers.Tokenizer.from_file(str(words))
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def tokens(texts: Sequence[str]) -> list[list[int]]:
        return [found.ids for found in tokenizer.encode_batch(list(texts))]

    from fedlab.models.torch_language import Pooled

    module, words_of = Pooled(encoder, padding=0).eval(), config.vocab_size
    origin = source("minilm").origin_of(words_of)
    return Pretrained(module, tokens, tokenizer.decode, words_of, 0, origin)


@contextmanager
def _read_once(transformers: Any, gguf: Any) -> Iterator[None]:
    """Let transformers parse a GGUF file once, not three times, and draw no progress bars.

    It makes the table of names anew for each layer, too: 20 seconds become 7.
    """
    names = ("GGUFReader", "get_tensor_name_map")
    once: dict[str, Any] = {name: cache(getattr(gguf, name)) for name in names}
    reading = "transformers.modeling_gguf_pytorch_utils.tqdm"
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with patch.multiple(gguf, **once), patch(reading, lambda items, **_: items):
            yield
    finally:
        if shown:
            logging.enable_progress_bar()

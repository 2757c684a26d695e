"""Language models and text classifiers as models, with low-rank adapters where wished."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

from fedlab.core.extras import imported
from fedlab.core.validation import known, whole_number
from fedlab.models.torch_module import TorchModel

if TYPE_CHECKING:
    from torch import nn

Tuned = Literal["adapters", "head", "all"]
#: The layers that have adapters by default, as LLaMA and BERT call them: queries and values.
_LAYERS = ("q_proj", "v_proj", "query", "value")


def with_adapters(
    module: nn.Module,
    rank: int,
    layers: tuple[str, ...] = _LAYERS,
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
    torch = imported("torch", "llm", "low-rank adapters")
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=list(layers), lora_dropout=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = peft.inject_adapter_in_model(config, module)
    for name in train:
        module.get_submodule(name).requires_grad_(True)
    return module


def language_model(
    module: nn.Module, length: int, *, rank: int = 4, seed: int = 0, device: str = "cpu"
) -> TorchModel:
    """Return a language model with adapters on queries and values; nothing else trains.

    Parameters
    ----------
    module : nn.Module
        From tokens to scores of the next one, with a layer ``head``, such as
        `fedlab.data.load_smollm2` gives. It is left as it is.
    length : int
        Tokens of a row.
    rank : int
    seed : int
        From which the adapters' A are drawn.
    device : str

    Examples
    --------
    ::

        model = language_model(load_smollm2().module, length=64)
        model.layout.size  # 230,400 numbers travel, of 135 million
    """
    from fedlab.models.torch_language import next_token_loss

    adapted = with_adapters(copy.deepcopy(module), rank, seed=seed)
    return TorchModel(
        adapted,
        next_token_loss,
        length,
        tokens=True,
        targets="inputs",
        head="head",
        start="given",
        device=device,
    )


def text_classifier(
    encoder: nn.Module,
    length: int,
    classes: int,
    *,
    tune: Tuned = "adapters",
    rank: int = 4,
    seed: int = 0,
    carries: bool = False,
    device: str = "cpu",
) -> TorchModel:
    """Return an encoder with a linear layer on top, as a model of classes.

    Parameters
    ----------
    encoder : nn.Module
        From tokens to a vector a text, such as `fedlab.data.load_minilm` gives. It is left as it
        is.
    length : int
        Tokens of a row.
    classes : int
    tune : {"adapters", "head", "all"}
        What trains: adapters and the layer on top; that layer alone (a linear probe); everything.
    rank : int
    seed : int
        From which the adapters' A are drawn.
    carries : bool
        Whether the weights under the adapters are in the vector, as exact averages need it
        (`fedlab.algorithms.FedExLoRA`).
    device : str

    Examples
    --------
    ::

        model = text_classifier(load_minilm().module, length=64, classes=8)
    """
    known(tune, ("adapters", "head", "all"), "part to tune")
    torch = imported("torch", "llm", "a classifier of texts")
    from fedlab.models.torch_language import Classifier

    module: Any = Classifier(copy.deepcopy(encoder), classes)
    if tune == "adapters":
        module = with_adapters(module, rank, seed=seed, train=("head",))
    elif tune == "head":
        module.encoder.requires_grad_(False)
    return TorchModel(
        module,
        torch.nn.CrossEntropyLoss(),
        length,
        tokens=True,
        head="head",
        start="given",
        carries=("*base_layer.weight",) if carries else (),
        device=device,
    )

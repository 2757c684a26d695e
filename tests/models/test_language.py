"""Language models as torch modules, small ones with random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="takes the extra llm")
pytest.importorskip("peft", reason="takes the extra llm")

import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from fedlab import Device, Federation, LocalSGD, VectorIndex
from fedlab.algorithms import KNNLM, FedExLoRA, FFALoRA, FLoRA
from fedlab.models import TorchModel
from fedlab.models.language import language_model, text_classifier, with_adapters
from fedlab.models.torch_language import Causal, Pooled, next_token_loss

WORDS, LENGTH = 40, 12


def bare() -> Causal:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=WORDS, initializer_range=0.3, **sizes, **heads)
    return Causal(LlamaForCausalLM(config))


def encoder() -> Pooled:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32}
    config = BertConfig(vocab_size=WORDS, num_attention_heads=2, **sizes)
    return Pooled(BertModel(config, add_pooling_layer=False), padding=0).eval()


def causal(**adapters: Any) -> TorchModel:
    module = with_adapters(bare(), 2, ("q_proj", "v_proj"))
    given = {"tokens": True, "targets": "inputs", "head": "head", "start": "given"}
    return TorchModel(module, next_token_loss, inputs=LENGTH, **given, **adapters)


def text(rows: int, seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, WORDS, (rows, LENGTH)).astype(np.float32)


def devices(count: int = 3) -> list[Device]:
    made = []
    for n in range(count):
        index = VectorIndex(LENGTH, "l2sq")
        index.add(text(6 + n, n), labels=np.zeros(6 + n, np.int64))
        made.append(Device(n, index))
    return made


def test_only_the_adapters_travel() -> None:
    model = causal()
    names = model.layout.names()
    assert len(names) == 2 * 2 * 2
    assert all("lora_A.default" in name or "lora_B.default" in name for name in names)
    assert model.layout.size == 2 * (2 * (16 + 16) + 2 * (16 + 8))
    assert not any(np.any(v) for n, v in model.layout.views(model.initial(0)).items() if "_B" in n)


def test_the_loss_is_the_mean_over_the_tokens_that_follow() -> None:
    model, rows = causal(), text(3, 0)
    start = model.initial(0)
    start += np.random.default_rng(1).normal(0, 0.1, start.shape).astype(np.float32)
    loss, _ = model.loss_and_gradient(start, rows, np.zeros(3, np.int64))
    scores = torch.tensor(model.predict(start, rows))
    tokens = torch.tensor(rows).long()
    log_p = scores[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])
    assert loss == pytest.approx(-float(log_p.mean()), rel=1e-5)
    assert loss == pytest.approx(
        KNNLM(share=0.0).memory(rows, model, start).losses(rows)[0], rel=1e-5
    )


def test_frozen_a_s_federate_and_nothing_but_b_moves() -> None:
    federation = Federation(
        devices(), causal(), algorithm=FFALoRA(), local=LocalSGD(batch_size=3, learning_rate=0.5)
    )
    before = federation.parameters
    federation.run(2)
    moved = federation.layout.views(before != federation.parameters)
    assert not any(part.any() for name, part in moved.items() if "lora_A" in name)
    assert all(part.any() for name, part in moved.items() if "lora_B" in name)
    values = federation.history.series("train_loss")
    assert values.iloc[-1] < values.iloc[0]


@pytest.mark.parametrize("algorithm", [FLoRA(), FedExLoRA()])
def test_exact_averages_move_the_layers_that_are_adapted(algorithm: Any) -> None:
    model = causal(carries=("*base_layer.weight",))
    local = LocalSGD(batch_size=None, learning_rate=0.5)
    federation = Federation(devices(), model, algorithm=algorithm, local=local, weights="uniform")
    before = model.layout.views(federation.parameters)
    federation.round()
    after = model.layout.views(federation.parameters)
    name = "body.layers.0.self_attn.q_proj"
    base, a, b = (
        f"{name}.{part}.weight" for part in ("base_layer", "lora_A.default", "lora_B.default")
    )

    def whole(parts: Any) -> Any:
        return parts[base] + parts[b] @ parts[a]

    # One full-batch step from B = 0 leaves A and moves B by -eta dL/dB: the mean of their products.
    steps = []
    for device in devices():
        gradient = model.loss_and_gradient(model.initial(0), *device.training())[1]
        steps.append(-0.5 * model.layout.views(gradient)[b] @ before[a])
    np.testing.assert_allclose(whole(after) - whole(before), np.mean(steps, axis=0), atol=1e-6)
    assert np.abs(np.mean(steps, axis=0)).max() > 1e-4


def test_a_model_in_one_call_leaves_the_module_as_it_is() -> None:
    module = bare()
    before = {name: part.clone() for name, part in module.named_parameters()}
    model = language_model(module, LENGTH, rank=2)
    assert model.layout.names() == causal().layout.names()
    start = model.initial(0)
    start[model.layout.mask("*lora_B*")] = 1.0
    model.loss_and_gradient(start, text(3, 0), np.zeros(3, np.int64))
    after = dict(module.named_parameters())
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], part) for name, part in before.items())
    other = language_model(module, LENGTH, rank=2, seed=1).initial(0)
    assert not np.array_equal(model.initial(0), other)


def test_a_loss_of_bf16_scores_keeps_its_digits() -> None:
    rows = torch.tensor(text(3, 0)).long()
    with torch.no_grad():
        scores = bare()(rows)
    exact, short = (
        next_token_loss(scores.to(kind), rows) for kind in (torch.float32, torch.bfloat16)
    )
    assert short.dtype == torch.float32
    assert float(short) == pytest.approx(float(exact), abs=0.01)
    assert float(short) != float(short.bfloat16())


def test_a_classifier_tunes_what_it_is_told_to() -> None:
    def names(tune: Any, **given: Any) -> set[str]:
        return set(text_classifier(encoder(), 6, 3, tune=tune, rank=2, **given).layout.names())

    head = {"head.weight", "head.bias"}
    assert names("head") == head
    adapters = names("adapters")
    assert head < adapters
    assert all("lora_" in name for name in adapters - head)
    base = names("adapters", carries=True) - adapters
    assert {name.replace("base_layer", "lora_A.default") for name in base} < adapters
    whole = text_classifier(encoder(), 6, 3, tune="all")
    sizes = [part.numel() for part in encoder().parameters()]
    assert whole.layout.size == sum(sizes) + 3 * 16 + 3
    with pytest.raises(ValueError, match="no part to tune is called 'heads'"):
        names("heads")


def test_padding_has_no_say_and_the_mean_is_over_tokens() -> None:
    reads = encoder()
    short = torch.tensor([[5, 6, 7]])
    long = torch.tensor([[5, 6, 7, 0, 0, 0]])
    torch.testing.assert_close(reads(short), reads(long), atol=1e-6, rtol=1e-5)
    model = text_classifier(reads, 6, 3, rank=2)
    x = np.array([[5, 6, 7, 0, 0, 0], [1, 2, 3, 4, 5, 6]], np.float32)
    assert model.predict(model.initial(0), x) == pytest.approx(np.full((2, 3), 1 / 3))

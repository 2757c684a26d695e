"""A torch module as a model: its layout, its gradient, its chance, and what is refused."""

import copy
import pickle
import warnings

import numpy as np
import pytest

from fedlab.core.settings import described
from fedlab.models import TorchModel, check_model
from tests.helpers import run_child

torch = pytest.importorskip("torch", reason="torch is not installed (the extra torch)")
nn = torch.nn

DRAW = np.random.default_rng(0)
X, Y = DRAW.normal(size=(12, 8)), DRAW.integers(0, 3, 12)
TOKENS = DRAW.integers(0, 7, (12, 5)).astype(np.float64)


def network(*further, drop=0.0, out=3):
    return nn.Sequential(
        *(nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6), nn.Tanh(), nn.Flatten()),
        *(nn.Dropout(drop), *further, nn.Linear(12, out)),
    )


def model(module=None, loss=None, inputs=8, **settings):
    return TorchModel(module or network(), loss or nn.CrossEntropyLoss(), inputs, **settings)


class Tied(nn.Module):
    """A language model whose last layer's weights are those of its first."""

    def __init__(self):
        super().__init__()
        self.embed, self.last = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.last.weight = self.embed.weight

    def forward(self, tokens):
        return self.last(self.embed(tokens))


def next_token(output, tokens):
    return nn.functional.cross_entropy(output[:, :-1].transpose(1, 2), tokens[:, 1:])


def language_model(**settings):
    return TorchModel(Tied(), next_token, 5, tokens=True, targets="inputs", **settings)


MODELS = {
    "normalised": lambda: model(),
    "with chance": lambda: model(network(drop=0.3)),
    "regression": lambda: model(nn.Linear(8, 1), nn.MSELoss()),
    "own loss": lambda: model(nn.Linear(8, 3), nn.functional.cross_entropy),
    "shaped": lambda: model(nn.Sequential(nn.Flatten(), nn.Linear(8, 3)), inputs=(2, 2, 2)),
    "bf16": lambda: model(network().bfloat16()),
}


@pytest.mark.parametrize("name", MODELS)
def test_its_gradient_is_that_of_its_loss(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_model(MODELS[name](), X, Y)


def test_a_language_model_predicts_its_own_rows():
    check_model(language_model(), TOKENS, Y)


def test_the_vector_holds_what_trains_in_its_order_and_then_the_buffers():
    module = network()
    module[6].bias.requires_grad_(False)
    layout = model(module).layout
    names = [name for name, _ in layout.shapes]
    trained = [name for name, p in module.named_parameters() if p.requires_grad]
    assert names == [*trained, "2.running_mean", "2.running_var"]
    assert layout.buffers == ("2.running_mean", "2.running_var")
    assert "6.bias" not in names


def test_tied_weights_stand_once_and_get_the_gradient_of_both():
    ours = language_model()
    assert [name for name, _ in ours.layout.shapes] == ["embed.weight"]
    theirs = Tied()
    vector = ours.initial(0)
    with torch.no_grad():
        theirs.embed.weight.copy_(torch.from_numpy(vector).reshape(7, 4))
    tokens = torch.from_numpy(TOKENS.astype(np.int64))
    next_token(theirs(tokens), tokens).backward()
    gradient = ours.loss_and_gradient(vector, TOKENS.astype(np.float32), Y)[1]
    np.testing.assert_allclose(gradient, theirs.embed.weight.grad.ravel(), atol=1e-7)


def test_buffers_entries_of_a_gradient_are_their_new_values_and_arguments_stay():
    ours = model()
    vector = ours.initial(0)
    vector.flags.writeable = False
    kept, rows = vector.copy(), X.astype(np.float32)
    theirs = copy.deepcopy(ours.module)
    theirs.load_state_dict(
        {n: torch.tensor(v) for n, v in ours.layout.views(kept).items()}, strict=False
    )
    theirs.train()(torch.from_numpy(rows))
    gradient = ours.layout.views(ours.loss_and_gradient(vector, rows, Y)[1])
    for name in ours.layout.buffers:
        np.testing.assert_array_equal(gradient[name], theirs.state_dict()[name])
    np.testing.assert_array_equal(vector, kept)


def test_whole_numbers_stay_at_home_and_count_for_nothing():
    ours, rows = model(), X.astype(np.float32)
    assert not [name for name, _ in ours.layout.shapes if "tracked" in name]
    first = ours.loss_and_gradient(ours.initial(0), rows, Y)[1]
    np.testing.assert_array_equal(first, ours.loss_and_gradient(ours.initial(0), rows, Y)[1])


def test_a_module_in_bf16_computes_in_it_and_its_vector_is_float32():
    ours, rows = model(network().bfloat16()), X.astype(np.float32)
    exact = model()
    vector = ours.initial(0)
    assert vector.dtype == np.float32
    gradients = [one.loss_and_gradient(vector, rows, Y)[1] for one in (ours, exact)]
    assert gradients[0].dtype == np.float32
    np.testing.assert_allclose(*gradients, atol=0.05)
    assert not np.array_equal(*gradients)


def test_evaluation_is_in_evaluation_mode_and_measures_what_torch_does():
    ours, rows = model(network(drop=0.5)), X.astype(np.float32)
    vector = ours.initial(3)
    theirs = copy.deepcopy(ours.module)
    parts = {n: torch.tensor(v) for n, v in ours.layout.views(vector).items()}
    theirs.load_state_dict(parts, strict=False)
    with torch.no_grad():
        output = theirs.eval()(torch.from_numpy(rows))
    found = ours.evaluate(vector, rows, Y)
    loss = nn.functional.cross_entropy(output, torch.from_numpy(Y))
    assert found["loss"] == pytest.approx(float(loss), rel=1e-6)
    assert found["accuracy"] == (output.argmax(1).numpy() == Y).mean()
    np.testing.assert_allclose(ours.predict(vector, rows), output.softmax(1), rtol=1e-5)


def test_further_measures_are_means_over_rows():
    ours = model(nn.Linear(8, 1), nn.MSELoss(), measures={"mae": nn.functional.l1_loss})
    vector, y = ours.initial(0), DRAW.normal(size=12)
    predicted = X.astype(np.float32) @ vector[:-1] + vector[-1]
    found = ours.evaluate(vector, X.astype(np.float32), y)
    assert found["mse"] == found["loss"] == pytest.approx(np.square(predicted - y).mean(), rel=1e-5)
    assert found["mae"] == pytest.approx(np.abs(predicted - y).mean(), rel=1e-5)


def test_an_embedding_is_what_enters_the_head_and_a_pull_on_it_reaches_the_parameters():
    ours = model(network(nn.Linear(12, 12), nn.Tanh()), head="8", inputs=8)
    vector, rows = ours.initial(0).astype(np.float64), X
    aim = DRAW.normal(size=(12, 12))

    def pull(entered):
        return float(np.square(entered - aim).sum()), 2 * (entered - aim)

    def total(point):
        return ours.loss_and_gradient(point, rows, Y, pull=pull)[0]

    gradient = ours.loss_and_gradient(vector, rows, Y, pull=pull)[1]
    along = np.where(ours.layout.buffered, 0, DRAW.normal(size=len(vector)))
    found = (total(vector + 1e-6 * along) - total(vector - 1e-6 * along)) / 2e-6
    assert gradient @ along == pytest.approx(found, rel=1e-5)
    entered = ours.embed(vector, rows)
    last = ours.layout.views(vector)
    scores = entered @ last["8.weight"].T + last["8.bias"]
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(ours.predict(vector, rows), shares, rtol=1e-9)


def test_without_a_head_there_is_no_embedding():
    with pytest.raises(ValueError, match="names no head"):
        model().embed(model().initial(0), X)
    with pytest.raises(ValueError, match="head is 'last'; choose one of None, "):
        model(head="last")


# -- chance ---------------------------------------------------------------------------------------


class Noisy(nn.Module):
    """Draws in all ways that take a generator, and in those that torch gives one another way."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(8, 3)
        self.attends = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.2, batch_first=True)

    def forward(self, x):
        x = x + 0.1 * torch.rand(x.shape, dtype=x.dtype) + 0.1 * torch.randn_like(x)
        x = x + torch.randint(1, 3, x.shape) + torch.multinomial(torch.ones(8), 8)
        x = torch.native_dropout(x + torch.normal(0.0, 0.1, x.shape), 0.3, True)[0]
        return self.last(self.attends(x[:, None])[:, 0])


@pytest.mark.parametrize("module", [network(drop=0.5), Noisy()], ids=["dropout", "all"])
def test_all_chance_comes_from_the_address_and_none_from_torch(module):
    ours, rows = model(module), X.astype(np.float32)
    assert ours.stochastic
    vector = ours.initial(0)

    def gradient(seed):
        return ours.loss_and_gradient(vector, rows, Y, draw=np.random.default_rng(seed))[1]

    torch.manual_seed(0)
    first, state = gradient(1), torch.get_rng_state()
    torch.manual_seed(1)
    other = torch.get_rng_state()
    np.testing.assert_array_equal(first, gradient(1))
    assert torch.equal(other, torch.get_rng_state())
    assert not torch.equal(state, other)
    assert not np.array_equal(first, gradient(2))


def test_attention_without_dropout_draws_nothing():
    layer = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True)
    module = nn.Sequential(nn.Unflatten(1, (1, 8)), layer, nn.Flatten(), nn.Linear(8, 3))
    assert not model(module).stochastic


def test_an_operation_that_takes_no_generator_is_refused():
    seeded = (torch.Tag.nondeterministic_seeded,)

    @torch.library.custom_op("fedlab_tests::noisy", mutates_args=(), tags=seeded)
    def noisy(x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)

    class Odd(nn.Linear):
        def forward(self, x):
            return super().forward(noisy(x))

    with pytest.raises(
        ValueError, match=r"draws through fedlab_tests\.noisy\.default, which takes"
    ):
        model(Odd(8, 3))


def test_the_start_is_drawn_from_the_seed_alone():
    ours = model()
    torch.manual_seed(0)
    first, state = ours.initial(5), torch.get_rng_state()
    torch.manual_seed(1)
    np.testing.assert_array_equal(first, model().initial(5))
    assert not np.array_equal(first, ours.initial(6))
    torch.manual_seed(0)
    assert torch.equal(state, torch.get_rng_state())
    bound = 1 / np.sqrt(12)  # of torch's own nn.Linear(12, 3)
    last = ours.layout.views(first)["6.weight"]
    assert 0.7 * bound < np.abs(last).max() <= bound


def test_a_given_start_is_kept_and_a_module_that_can_not_draw_says_so():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.full((8, 3), 0.25))

        def forward(self, x):
            return x @ self.scale

    np.testing.assert_array_equal(model(Own(), start="given").initial(0), np.full(24, 0.25))
    with pytest.raises(ValueError, match=r"\(Own\) has parameters and no reset_parameters"):
        model(Own()).initial(0)


# -- what is refused, and told apart --------------------------------------------------------------


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(8, 3)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.seen += 1
        return self.last(x)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda: model(nn.BatchNorm1d(8, momentum=None)), "momentum=None"),
        (lambda: model(Counting()), "training changes seen, which does not travel"),
        (lambda: model(nn.Linear(4, 3)), r"takes no rows of shape \(8,\)"),
        (lambda: model(nn.Linear(8, 3).requires_grad_(False)), "no parameter of the module trains"),
        (lambda: model(nn.Conv1d(1, 3, 3), inputs=(1, 8)), r"takes \(rows, classes\)"),
        (
            lambda: model(loss=nn.CrossEntropyLoss(reduction="sum")),
            "reduction is 'sum'; choose one of",
        ),
        (lambda: model(inputs=(0, 8)), "a size of inputs is 0"),
        (lambda: model(start="random"), "no start is called 'random'"),
        (lambda: model(targets="rows"), "no kind of targets is called 'rows'"),
        (lambda: model(device="cuda:99"), "torch finds no such one"),
        (lambda: model().check_labels(np.array([0, 3])), r"classes 0 ... 2"),
    ],
)
def test_what_can_not_train_is_refused(made, why):
    with pytest.raises(ValueError, match=why):
        made()


def test_what_is_no_module_or_loss_is_refused():
    with pytest.raises(TypeError, match=r"give a Module"):
        TorchModel(nn.Linear, nn.CrossEntropyLoss(), 8)
    with pytest.raises(TypeError, match="loss is the class CrossEntropyLoss"):
        TorchModel(nn.Linear(8, 3), nn.CrossEntropyLoss, 8)


def test_models_are_told_apart_by_layers_code_loss_and_kept_weights():
    class Bent(nn.Linear):
        def forward(self, x):
            return super().forward(x).tanh()

    def bent_twice():
        class Bent(nn.Linear):
            def forward(self, x):
                return super().forward(x).tanh().tanh()

        return Bent(8, 3)

    torch.manual_seed(0)
    frozen = network()
    frozen[1].requires_grad_(False)
    others = [
        *(model(), model(network(drop=0.1)), model(network(drop=0.2)), model(frozen)),
        *(model(Bent(8, 3)), model(bent_twice()), model(start="given"), model(start="given")),
        *(model(loss=nn.CrossEntropyLoss(label_smoothing=0.1)), model(loss=nn.NLLLoss())),
        *(model(loss=lambda a, b: a.sum()), model(loss=lambda a, b: a.mean())),
    ]
    words = [described(one) for one in others]
    assert len(set(words)) == len(others)
    torch.manual_seed(5)
    assert described(model()) == words[0], "weights that are drawn anew tell nothing"
    trained = model()
    trained.loss_and_gradient(trained.initial(0), X.astype(np.float32), Y)
    assert described(trained) == words[0]


def test_a_copy_computes_what_the_model_does():
    ours = model()
    other = pickle.loads(pickle.dumps(ours))
    vector, rows = ours.initial(0), X.astype(np.float32)
    assert ours.evaluate(vector, rows, Y) == other.evaluate(vector, rows, Y)


def test_without_torch_the_error_names_the_extra():
    said = run_child(
        "import sys; sys.modules['torch'] = None\n"
        "from fedlab.models import TorchModel\n"
        "try: TorchModel(None, None, 8)\n"
        "except ImportError as error: print(error)"
    )
    assert "comes with the extra 'torch'" in said


def test_importing_fedlab_does_not_load_torch():
    assert run_child("import sys, fedlab; print('torch' in sys.modules)").strip() == "False"

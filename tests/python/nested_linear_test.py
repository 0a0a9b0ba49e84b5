"""NestedLinear and enable_dual_precision: exact against what they replace, FP8 from the same bytes."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn

import dualfp
import dualfp.torch as dt
from reference import assert_rounded, per_token, planes_value, product

DTYPES = [torch.float16, torch.bfloat16]


def linear_of(dtype, n=32, k=48, bias=True, seed=0):
    torch.manual_seed(seed)
    linear = nn.Linear(k, n, bias=bias).to(dtype)
    with torch.no_grad():
        linear.weight[2, 3] = 5.0
    return linear


def input_of(dtype, k=48):
    return torch.randn(4, k, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
def test_exact_is_the_layer_it_replaces(dtype, bias):
    linear, x = linear_of(dtype, bias=bias), input_of(dtype)
    module = dt.NestedLinear(linear)
    assert torch.equal(module.weight, linear.weight)
    with torch.no_grad():
        y = module(x)
        want = product(x, linear.weight, linear.bias)
        assert_rounded(y, want, x, linear.weight)
        torch.testing.assert_close(y, linear(x))


def test_fp8_is_the_upper_plane():
    linear, x = linear_of(torch.float16), input_of(torch.float16)
    module = dt.NestedLinear(linear)
    value = planes_value(linear.weight.detach().clamp(-1.75, 1.75))
    value[2, 3] += 5.0 - 1.75
    with torch.no_grad(), dualfp.precision("fp8"):
        y = module(x)
    assert_rounded(y, product(per_token(x), value, linear.bias.detach()), per_token(x), value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_precision_by_context_process_thread_and_module(dtype):
    module, x = dt.NestedLinear(linear_of(dtype)), input_of(dtype)
    with torch.no_grad():
        exact = module(x)
        with dualfp.precision("fp8"):
            fp8 = module(x)
            with dualfp.precision("fp16"):
                assert torch.equal(module(x), exact)
            others = []
            thread = threading.Thread(target=lambda: others.append(module(x)))
            thread.start()
            thread.join()
            assert torch.equal(others[0], exact)
        assert not torch.equal(exact, fp8)
        dualfp.set_precision("fp8")
        try:
            assert dualfp.get_precision() == "fp8" and torch.equal(module(x), fp8)
        finally:
            dualfp.set_precision("exact")
        module.precision = "fp8"
        assert torch.equal(module(x), fp8)
        module.precision = None
        assert torch.equal(module(x), exact)
    with pytest.raises(ValueError, match="exact"):
        module.precision = "int4"
    with pytest.raises(ValueError, match="precision"):
        with dualfp.precision(None):
            pass


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_copy(dtype):
    module = dt.NestedLinear(linear_of(dtype))
    bits = 8 * module.memory_bytes() / (32 * 48)
    assert bits < (17 if dtype == torch.float16 else 13.5)
    assert list(name for name, _ in module.named_parameters()) == ["bias"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_state_dict_is_that_of_the_layer(dtype):
    linear = linear_of(dtype)
    module = dt.NestedLinear(linear)
    state = module.state_dict()
    assert set(state) == {"weight", "bias"} and torch.equal(state["weight"], linear.weight)
    other = dt.NestedLinear(linear_of(dtype, seed=4))
    assert other.load_state_dict(linear.state_dict()) == ([], [])
    assert torch.equal(other.weight, linear.weight)
    for key, value, message in [
        ("weight", linear.weight.detach().float(), "exactly"),
        ("weight", linear.weight.detach()[:2], "size mismatch"),
        ("weight", torch.full_like(linear.weight, float("nan")), "NaN|finite|element"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            other.load_state_dict({**linear.state_dict(), key: value})
        assert torch.equal(other.weight, linear.weight)


@pytest.mark.parametrize("dtype", DTYPES)
def test_copies(dtype):
    module, x = dt.NestedLinear(linear_of(dtype), precision="fp8"), input_of(dtype)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert other.precision == "fp8"
        assert torch.equal(other(x), module(x))


def test_enable_dual_precision_on_a_transformer():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=128, tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()
    ids = torch.arange(20).unsqueeze(0)
    with torch.no_grad():
        before = model(ids).logits
        with pytest.warns(UserWarning, match="lm_head: its weight is shared with model.embed_tokens"):
            assert dt.enable_dual_precision(model) is model
        assert sum(isinstance(m, dt.NestedLinear) for m in model.modules()) == 14
        exact = model(ids).logits
        with dualfp.precision("fp8"):
            fp8 = model(ids).logits
        again = model(ids).logits
    scale = before.float().std()
    assert (exact - before).float().abs().max() < 0.05 * scale
    assert torch.equal(exact, again)
    assert 0 < (fp8 - before).float().abs().mean() < 0.2 * scale


def test_what_cannot_be_nested_stays():
    wild = nn.Linear(32, 32).half()
    with torch.no_grad():
        wild.weight.fill_(3.0)
    model = nn.Sequential(nn.Linear(32, 32), wild, nn.Linear(32, 32).bfloat16())
    with pytest.warns(UserWarning, match="0: its weight is torch.float32.*1: .*more than"):
        dt.enable_dual_precision(model)
    assert [type(m) for m in model] == [nn.Linear, nn.Linear, dt.NestedLinear]
    with pytest.raises(TypeError, match="float32"):
        dt.NestedLinear(nn.Linear(4, 4))


def test_compiles_whole_at_either_precision():
    model = nn.Sequential(linear_of(torch.bfloat16), nn.ReLU(), linear_of(torch.bfloat16, 16, 32))
    dt.enable_dual_precision(model)
    x = input_of(torch.bfloat16)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True)
        for precision in ("exact", "fp8"):
            with dualfp.precision(precision):
                torch.testing.assert_close(compiled(x), model(x))

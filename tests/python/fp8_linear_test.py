"""FP8Linear and enable_fp8_gemm: the published semantics, and what was wrong with them."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import nn

import dualfp.torch as dt
from reference import assert_rounded, per_token, product

STORAGES = ["discard", "keep", "cpu_offload"]


def options(storage="discard", **more):
    return dt.FP8GemmOptions(fp16_weight_storage=storage, compute_on_cpu=True, **more)


def linear_of(n=32, k=48, dtype=torch.bfloat16, bias=True, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(k, n, bias=bias).to(dtype)


def input_of(dtype=torch.bfloat16, k=48):
    return torch.randn(4, k, generator=torch.Generator().manual_seed(1)).to(dtype)


def expected(linear, x):
    weight = linear.weight.detach().float()
    scale = weight.abs().amax(1, keepdim=True) / 448
    value = (weight / scale).to(torch.float8_e4m3fn).double() * scale.double()
    bias = None if linear.bias is None else linear.bias.detach()
    return product(per_token(x), value, bias), value


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_computes_at_fp8_in_the_dtype_of_its_input(storage, dtype):
    linear, x = linear_of(dtype=dtype), input_of(dtype)
    want, value = expected(linear, x)
    module = dt.FP8Linear.from_linear(linear, options=options(storage))
    with torch.no_grad():
        y = module(x)
        assert y.dtype == dtype
        assert_rounded(y, want, per_token(x), value)
        # float32 is cast to the weight's type, and the result back.
        wide = module(x.float())
        assert wide.dtype == torch.float32
        torch.testing.assert_close(wide, y.float(), rtol=0, atol=0)
        narrow = dt.FP8Linear(linear, options=options(storage, cast_output_back=False))(x.float())
        assert narrow.dtype == dtype
    assert module._compute_dtype == dtype


def test_options_are_those_published():
    assert dt.FP8GemmOptions() == dt.FP8GemmOptions(
        cast_inputs=True, cast_output_back=True, fp16_weight_storage="discard", materialize_fp8_on_wrap=True
    )
    with pytest.raises(AttributeError):
        dt.FP8GemmOptions().cast_inputs = False
    with pytest.raises(TypeError, match="nn.Linear"):
        dt.FP8Linear(nn.Conv1d(1, 1, 1), options=options())
    with pytest.raises(ValueError, match="fp16_weight_storage"):
        dt.FP8Linear(linear_of(), options=options("elsewhere"))
    with pytest.raises(ValueError, match="cast_inputs"):
        dt.FP8Linear(linear_of(), options=options("discard", cast_inputs=False))


def test_cpu_calls_go_through_the_weights_that_are_kept():
    linear, x = linear_of(), input_of()
    plain = linear(x)
    for storage in ("keep", "cpu_offload"):
        module = dt.FP8Linear.from_linear(linear, options=dt.FP8GemmOptions(fp16_weight_storage=storage))
        module.materialize_fp8_weight("cpu")
        assert torch.equal(module(x), plain)
    module = dt.FP8Linear.from_linear(linear, options=dt.FP8GemmOptions())
    module.materialize_fp8_weight("cpu")
    with pytest.raises(RuntimeError, match="discarded"):
        module(x)


def test_without_casts_other_inputs_take_the_plain_weights():
    linear, x = linear_of(), input_of().float()
    module = dt.FP8Linear.from_linear(linear, options=options("keep", cast_inputs=False))
    want = torch.nn.functional.linear(x, linear.weight.float(), linear.bias.float())
    assert torch.equal(module(x), want)


def test_codes_follow_the_weight():
    linear, x = linear_of(), input_of()
    module = dt.FP8Linear.from_linear(linear, options=options("keep"))
    assert module.weight is linear.weight and module.linear.weight is linear.weight
    before = module(x)
    with torch.no_grad():
        linear.weight.mul_(2)
        linear.bias.mul_(2)
    assert torch.equal(module(x), before * 2)
    module.invalidate_weight_cache()
    assert torch.equal(module(x), before * 2)
    discarded = dt.FP8Linear.from_linear(linear_of(), options=options("discard"))
    discarded.invalidate_weight_cache()
    with pytest.raises(RuntimeError, match="no 16-bit weights"):
        discarded(x)
    offloaded = dt.FP8Linear.from_linear(linear_of(), options=options("cpu_offload"))
    offloaded.invalidate_weight_cache()
    assert torch.equal(offloaded(x), before)


def test_lazy_until_the_first_call():
    module = dt.FP8Linear.from_linear(linear_of(), options=options(materialize_fp8_on_wrap=False))
    assert module.memory_bytes() == 0
    module(input_of())
    assert module.memory_bytes() == 32 * 48 + 32 * 4


@pytest.mark.parametrize("storage", STORAGES)
def test_state_dict_round_trips(storage):
    linear, x = linear_of(), input_of()
    module = dt.FP8Linear.from_linear(linear, options=options(storage))
    state = module.state_dict()
    assert state["weight"].dtype == (torch.float8_e4m3fn if storage == "discard" else torch.bfloat16)
    other = dt.FP8Linear.from_linear(linear_of(seed=5), options=options(storage))
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    assert other.load_state_dict(torch.load(file)) == ([], [])
    assert torch.equal(other(x), module(x))
    # A checkpoint of nn.Linear loads too, and what holds 16-bit weights loads into nn.Linear.
    fresh = dt.FP8Linear.from_linear(linear_of(seed=6), options=options(storage))
    assert fresh.load_state_dict(linear.state_dict()) == ([], [])
    assert torch.equal(fresh(x), module(x))
    if storage != "discard":
        back = linear_of(seed=7)
        back.load_state_dict(state)
        assert torch.equal(back.weight, linear.weight)


def test_the_published_names_of_a_kept_layer_load():
    linear = linear_of()
    module = dt.FP8Linear.from_linear(linear_of(seed=3), options=options("keep"))
    published = {f"linear.{name}": value for name, value in linear.state_dict().items()}
    assert module.load_state_dict(published) == ([], [])
    assert torch.equal(module(input_of()), dt.FP8Linear.from_linear(linear, options=options("keep"))(input_of()))


def test_state_dict_errors_name_the_key():
    module = dt.FP8Linear.from_linear(linear_of(), options=options())
    with pytest.raises(RuntimeError, match="weight"):
        module.load_state_dict({"bias": torch.zeros(32)})
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        module.load_state_dict({"bias": torch.zeros(32), "weight": torch.zeros(3, 3)})


@pytest.mark.parametrize("storage", STORAGES)
def test_copies(storage):
    module = dt.FP8Linear.from_linear(linear_of(), options=options(storage))
    x = input_of()
    y = module(x)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert other.options == module.options
        assert torch.equal(other(x), y)
    clone = copy.deepcopy(module)
    if storage == "keep":
        with torch.no_grad():
            clone.weight.mul_(2)
        assert torch.equal(module(x), y) and not torch.equal(clone(x), y)


def test_half_leaves_codes_alone():
    module = dt.FP8Linear.from_linear(linear_of(), options=options())
    x = input_of()
    y = module(x)
    assert torch.equal(module.half()(x).float().round(decimals=1), y.float().round(decimals=1))
    assert module._codes["weight"].dtype == torch.uint8


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(48, 32)
        self.b = nn.Linear(32, 48, bias=False)
        self.again = self.a
        self.norm = nn.LayerNorm(48)
        self.attention = nn.MultiheadAttention(48, 2)

    def forward(self, x):
        return self.again(self.norm(self.b(torch.relu(self.a(x)))))


def block():
    torch.manual_seed(0)
    return Block().bfloat16()


def test_replaces_what_it_can_and_says_what_it_cannot():
    model = block()
    report = dt.enable_fp8_gemm(model, options=options(), dry_run=True)
    assert type(model.a) is nn.Linear
    assert report.replaced == ["a", "b"]
    assert report.skipped == {"attention.out_proj": "nn.MultiheadAttention multiplies by its weight itself"}
    assert "2 of 3" in str(report)
    with pytest.warns(UserWarning, match="attention.out_proj"):
        assert dt.enable_fp8_gemm(model, options=options()) is model
    assert isinstance(model.a, dt.FP8Linear) and model.a is model.again
    assert torch.isfinite(model(input_of())).all()


def test_filter_copy_and_root():
    model = block()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        changed = dt.enable_fp8_gemm(
            model, options=options(), module_filter=lambda name, module: name == "b", inplace=False
        )
    assert type(model.b) is nn.Linear and isinstance(changed.b, dt.FP8Linear) and type(changed.a) is nn.Linear
    linear = linear_of()
    assert isinstance(dt.enable_fp8_gemm(linear, options=options()), dt.FP8Linear)
    with pytest.warns(UserWarning, match="0 of 0"):
        dt.enable_fp8_gemm(nn.LayerNorm(4))
    with pytest.raises(TypeError, match="nn.Module"):
        dt.enable_fp8_gemm(3)


def test_bad_weights_leave_the_model_as_it_was():
    model = nn.Sequential(linear_of(), linear_of(48, 32))
    with torch.no_grad():
        model[1].weight[3, 4] = float("nan")
    with pytest.warns(UserWarning, match="1: its weight has NaN"):
        dt.enable_fp8_gemm(model, options=options())
    assert isinstance(model[0], dt.FP8Linear) and type(model[1]) is nn.Linear


def test_tied_weights_stay_tied():
    model = nn.ModuleDict({"embed": nn.Embedding(32, 48), "head": nn.Linear(48, 32, bias=False)})
    model["head"].weight = model["embed"].weight
    with pytest.warns(UserWarning, match="shared with embed"):
        dt.enable_fp8_gemm(model, options=options())
    assert model["head"].weight is model["embed"].weight
    kept = dt.enable_fp8_gemm(model, options=options("keep"))
    assert kept["head"].weight is kept["embed"].weight and isinstance(kept["head"], dt.FP8Linear)


def test_sizes_that_a_gpu_does_not_take():
    report = dt.enable_fp8_gemm(nn.Linear(40, 20), dry_run=True)
    assert "multiples of 16" in report.skipped[""]


def test_training_goes_no_further():
    module = dt.FP8Linear.from_linear(linear_of(), options=options("keep"))
    with pytest.raises(RuntimeError, match="no gradient"):
        module(input_of().requires_grad_()).sum().backward()


def test_compiles_whole():
    model = nn.Sequential(linear_of(), nn.ReLU(), linear_of(48, 32))
    dt.enable_fp8_gemm(model, options=options())
    x = input_of()
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True)
        torch.testing.assert_close(compiled(x), model(x))


def test_shared_input_changes_no_bit():
    layers = [linear_of(seed=s, n=16 * (s + 1)) for s in range(3)]
    x = input_of()
    alone = [dt.FP8Linear.from_linear(layer, options=options())(x) for layer in layers]
    shared = dt.SharedInputFP8Linear(layers, options=options())
    for y, want in zip(shared(x), alone):
        assert torch.equal(y, want)
    for y, want in zip(shared(x.float()), alone):
        assert torch.equal(y, want.float())
    with pytest.raises(ValueError, match="input features"):
        dt.SharedInputFP8Linear([linear_of(), linear_of(k=64)], options=options())
    with pytest.raises(ValueError, match="no layers"):
        dt.SharedInputFP8Linear([])

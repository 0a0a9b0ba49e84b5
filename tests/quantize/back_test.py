"""FP8 checkpoints written back in 16 bits: the values that an independent reader decodes, rounded
once."""

import json

import numpy as np
import pytest
import torch
from producers import Reader, load
from running import MODEL, dualfp, quantize, refuses
from safetensors.torch import load_file, save_file


@pytest.mark.parametrize("target, dtype", [("bf16", torch.bfloat16), ("fp16", torch.float16)])
@pytest.mark.parametrize("scheme, method", [
    ("fp8", "fp8"), ("fp8-block", "fp8"), ("fp8-channel", "compressed-tensors"),
    ("fp8-block", "compressed-tensors"), ("mxfp8", "compressed-tensors"), ("mxfp8", "modelopt")])
def test_values_are_codes_times_scales(tmp_path, scheme, method, target, dtype):
    quantize(MODEL, tmp_path / "out", "--scheme", scheme, "--quant-method", method)
    quantize(tmp_path / "out", tmp_path / "back", "--scheme", target)
    source, back, reader = load(MODEL), load(tmp_path / "back"), Reader(tmp_path / "out")
    assert back.keys() == source.keys()
    for name, weight in source.items():
        if ".layers." not in name or weight.dim() != 2:
            assert torch.equal(back[name], weight)
            continue
        want = torch.from_numpy(reader.weight(name.removesuffix(".weight")).astype(np.float32))
        assert back[name].dtype == dtype and torch.equal(back[name], want.to(dtype)), name
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert "quantization_config" not in config
    assert not (tmp_path / "back" / "hf_quant_config.json").exists()


def test_a_missing_scale_leaves_nothing(tmp_path):
    quantize(MODEL, tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    del tensors["model.layers.4.mlp.up_proj.weight_scale"]
    save_file(tensors, tmp_path / "out" / "model.safetensors", metadata={"format": "pt"})
    refuses(dualfp("quantize", tmp_path / "out", tmp_path / "back", "--scheme", "bf16"),
            "model.layers.4.mlp.up_proj", "scale")
    assert not (tmp_path / "back").exists()

"""What other tools make of a weight: their own code where they have one to call, their published
definition in torch where not; and an independent reader of the checkpoints that dualfp writes."""

import json
import pathlib

import ml_dtypes
import numpy as np
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import quantize
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import load_file
from transformers.integrations.finegrained_fp8 import Fp8Quantize

E4M3 = torch.float8_e4m3fn


def compressed_tensors(weight, strategy):
    """Codes and scales of llm-compressor's memoryless minmax observer."""
    block = [128, 128] if strategy == "block" else None
    args = QuantizationArgs(num_bits=8, type="float", strategy=strategy, block_structure=block)
    n, k = weight.shape
    if strategy == "tensor":
        low, high = weight.min(), weight.max()
    elif strategy == "channel":
        low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    else:
        padded = torch.nn.functional.pad(weight, (0, -k % 128, 0, -n % 128))
        blocks = padded.reshape(-(-n // 128), 128, -(-k // 128), 128)
        low, high = blocks.amin((1, 3)), blocks.amax((1, 3))
    scales, zeros = calculate_qparams(low, high, args)
    return quantize(weight, scales, zeros, args, dtype=E4M3), scales


def autofp8(weight):
    """AutoFP8's per_tensor_quantize, whose package asks for another torch."""
    amax = weight.abs().max()
    scale = torch.finfo(E4M3).max / amax.clamp(min=1e-12)
    codes = (weight * scale).clamp(-448, 448).to(E4M3)
    return codes, scale.float().reciprocal()


class _Quantizer:
    def __init__(self, scale_fmt):
        self.quantization_config = type(
            "Config", (), {"weight_block_size": [128, 128], "scale_fmt": scale_fmt}
        )()


def transformers_blocks(weight, scale_fmt):
    made = Fp8Quantize(_Quantizer(scale_fmt)).convert({"x.weight": weight})
    return made["x.weight"], made["x.weight_scale_inv"]


def mx(weight):
    """MX with ceil(log2(amax / 448)), in numpy."""
    values = weight.double().numpy().reshape(weight.shape[0], -1, 32)
    amax = np.abs(values).max(2)
    exponent = np.where(amax > 0, np.ceil(np.log2(np.maximum(amax, 1e-300) / 448)), -127)
    codes = (values / 2.0 ** exponent[:, :, None]).astype(np.float32).astype(ml_dtypes.float8_e4m3fn)
    return codes.view(np.uint8).reshape(weight.shape), (exponent + 127).astype(np.uint8)


def raw(tensor):
    return tensor.contiguous().view(torch.uint8).numpy()


class Reader:
    """Raw bytes by numpy and ml_dtypes."""

    DTYPES = {
        "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64,
        "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E8M0": ml_dtypes.float8_e8m0fnu, "U8": np.uint8,
        "I8": np.int8,
    }

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.tensors = {}
        for path in sorted(self.directory.glob("*.safetensors")):
            blob = path.read_bytes()
            size = int.from_bytes(blob[:8], "little")
            for name, entry in json.loads(blob[8 : 8 + size]).items():
                if name != "__metadata__":
                    begin, end = (8 + size + offset for offset in entry["data_offsets"])
                    array = np.frombuffer(blob[begin:end], self.DTYPES[entry["dtype"]])
                    self.tensors[name] = array.reshape(entry["shape"])
        self.config = json.loads((self.directory / "config.json").read_text())

    def scale(self, module):
        for suffix in ("weight_scale", "weight_scale_inv"):
            scale = self.tensors.get(f"{module}.{suffix}")
            if scale is not None:
                if scale.dtype == np.uint8:
                    return 2.0 ** (scale.astype(np.float64) - 127)
                return scale.astype(np.float64)
        return None

    def weight(self, module):
        """The value of NAME.weight in double."""
        values = self.tensors[f"{module}.weight"].astype(np.float64)
        scale = self.scale(module)
        if scale is None:
            return values
        if scale.size == 1:
            return values * scale.reshape(())
        n, k = values.shape
        rows = 1 if scale.shape[0] == n else 128
        columns = k if scale.shape[1] == 1 and rows == 1 else 32 if rows == 1 else 128
        spread = np.repeat(np.repeat(scale, rows, 0)[:n], columns, 1)[:, :k]
        return values * spread


def load(directory):
    tensors = {}
    for path in sorted(pathlib.Path(directory).glob("*.safetensors")):
        tensors.update(load_file(path))
    return tensors

"""safetensors files written by others are read, and ours are read by others."""

import json
import os
import random
import subprocess
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
import transformers

TOOL = Path(os.environ["DUALFP_BUILD_DIR"]) / "layers/io/io_test_tool"

DTYPES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.uint16: "U16",
    torch.int16: "I16", torch.uint32: "U32", torch.int32: "I32", torch.uint64: "U64",
    torch.int64: "I64", torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32",
    torch.float64: "F64", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.float8_e8m0fnu: "F8_E8M0",
}  # fmt: skip


def read(*paths):
    """What dualfp reads from each path."""
    lines = subprocess.run([TOOL, "tensors", *paths], check=True, capture_output=True, text=True)
    return [json.loads(line) for line in lines.stdout.splitlines()]


def copy(source, target, max_shard_bytes):
    """Reads a checkpoint and writes it again, both with dualfp."""
    subprocess.run([TOOL, "copy", source, target, str(max_shard_bytes)], check=True)


def raw(tensor):
    """A tensor's bytes."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def random_tensor(dtype, shape, seed):
    generator = torch.Generator().manual_seed(seed)
    count = torch.Size(shape).numel() * torch.empty(0, dtype=dtype).element_size()
    top = 2 if dtype == torch.bool else 256
    values = torch.randint(0, top, (count,), dtype=torch.uint8, generator=generator)
    return values.view(dtype).reshape(shape)


def all_kinds():
    tensors = {}
    for i, dtype in enumerate(DTYPES):
        tensors[f"layer.{i}.weight"] = random_tensor(dtype, (3, 5), i)
        tensors[f"layer.{i}.scalar"] = random_tensor(dtype, (), 100 + i)
    tensors["empty"] = torch.empty((0, 4), dtype=torch.float32)
    tensors["rank 4"] = random_tensor(torch.int8, (2, 1, 3, 2), 7)
    tensors["имя \"quoted\" \\ \n 名前 🙂"] = random_tensor(torch.bfloat16, (4,), 8)
    return tensors


def assert_same(read_tensors, tensors):
    assert {tensor["name"] for tensor in read_tensors} == set(tensors)
    for tensor in read_tensors:
        expected = tensors[tensor["name"]]
        assert tensor["dtype"] == DTYPES[expected.dtype]
        assert tensor["shape"] == list(expected.shape)
        assert bytes.fromhex(tensor["bytes"]) == raw(expected)


def test_reads_what_safetensors_writes(tmp_path):
    tensors = all_kinds()
    metadata = {"format": "pt", "note": "a \"b\" é\n"}
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors", metadata=metadata)
    (checkpoint,) = read(tmp_path)
    assert_same(checkpoint["tensors"], tensors)
    assert checkpoint["metadata"] == metadata


@pytest.mark.parametrize("max_shard_bytes", [10**9, 100, 1])
def test_safetensors_reads_what_we_write(tmp_path, max_shard_bytes):
    tensors = all_kinds()
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    target = tmp_path / "copy"
    copy(tmp_path, target, max_shard_bytes)
    (again,) = read(target)
    assert_same(again["tensors"], tensors)
    loaded = {}
    for file in target.glob("*.safetensors"):
        part = safetensors.torch.load_file(file)
        assert not loaded.keys() & part.keys()
        loaded |= part
        with safetensors.safe_open(file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].shape == tensor.shape
        assert raw(loaded[name]) == raw(tensor)
    index = target / "model.safetensors.index.json"
    assert index.exists() == (max_shard_bytes < 10**9)
    if index.exists():
        content = json.loads(index.read_text())
        assert content["weight_map"].keys() == tensors.keys()
        assert content["metadata"]["total_size"] == sum(len(raw(t)) for t in tensors.values())


@pytest.mark.parametrize("max_shard_bytes", [10**9, 20000])
def test_transformers_checkpoints_go_both_ways(tmp_path, max_shard_bytes):
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    torch.manual_seed(1)
    model = transformers.LlamaForCausalLM(config)
    source, target = tmp_path / "source", tmp_path / "target"
    model.save_pretrained(source, max_shard_size=max_shard_bytes)
    assert (source / "model.safetensors").exists() == (max_shard_bytes == 10**9)
    (checkpoint,) = read(source)
    assert_same(checkpoint["tensors"], model.state_dict())

    copy(source, target, max_shard_bytes)
    (target / "config.json").write_bytes((source / "config.json").read_bytes())
    loaded = transformers.LlamaForCausalLM.from_pretrained(target)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def reference_accepts(path):
    try:
        with safetensors.safe_open(path, "np") as file:
            return set(file.keys())
    except safetensors.SafetensorError:
        return None


def has_duplicate_keys(path):
    """Forbidden by the format, but the reference implementation takes the last one."""
    found = []

    def check(pairs):
        found.append(len({key for key, _ in pairs}) < len(pairs))
        return None

    content = path.read_bytes()
    json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")], object_pairs_hook=check)
    return any(found)


# Where else the reference implementation is laxer than the format or than dualfp needs.
STRICTER = (
    "unknown field",
    "unsupported element type",
    "overflows 63 bits",
    "more than 64 dimensions",
    "shape: expected integers of at least 0",  # dimensions from 2^63 on beside a 0
)


def test_accepts_no_file_that_the_reference_implementation_refuses(tmp_path):
    rng = random.Random(20)
    tensors = {
        "a": torch.arange(6, dtype=torch.int16).reshape(2, 3),
        "b": torch.tensor(1.5),
        "c": torch.empty((0, 2), dtype=torch.int8),
        "d": torch.arange(4, dtype=torch.uint8),
    }
    original = safetensors.torch.save(tensors, metadata={"format": "pt"})
    length = int.from_bytes(original[:8], "little")
    tokens = [b'"a"', b'"b"', b'"dtype"', b'"shape"', b'"data_offsets"', b"0", b"1", b"2", b"12",
              b"-1", b"1.0", b"99999999999999999999", b"null", b"{", b"}", b"[", b"]", b",", b":",
              b'"I16"', b'"F4"', b'"U8"', b"\xff", b"\x00", b" "]  # fmt: skip
    paths = []
    for i in range(4000):
        header, data = bytearray(original[8 : 8 + length]), bytearray(original[8 + length :])
        for _ in range(rng.choice((1, 1, 2))):
            at = rng.randrange(len(header))
            kind = rng.randrange(6)
            if kind == 0:
                header[at] = rng.choice(b'0123456789{}[]",: abdstype')
            elif kind == 1:
                header[at:at] = rng.choice(tokens)
            elif kind == 2:
                del header[at : at + rng.randint(1, 4)]
            elif kind == 3:
                end = at + rng.randint(1, 60)
                header[at:at] = header[at:end]
            elif kind == 4:
                digits = [j for j, byte in enumerate(header) if byte in b"0123456789"]
                header[rng.choice(digits)] = rng.choice(b"0123456789")
            elif rng.random() < 0.5:
                data = data[: rng.randrange(len(data) + 1)]
            else:
                data += bytes(rng.randint(1, 3))
        shown = len(header) + (rng.randint(-2, 2) if rng.random() < 0.1 else 0)
        path = tmp_path / f"{i}.safetensors"
        path.write_bytes(shown.to_bytes(8, "little") + header + data)
        paths.append(path)
    num_accepted = 0
    for path, ours in zip(paths, read(*paths), strict=True):
        names = reference_accepts(path)
        if "error" not in ours:
            num_accepted += 1
            assert names == {tensor["name"] for tensor in ours["tensors"]}, path.read_bytes()
        else:
            assert ours["error"] in ("invalid_file", "unsupported")
            if names is not None and not has_duplicate_keys(path):
                assert any(reason in ours["message"] for reason in STRICTER), ours["message"]
    assert 100 < num_accepted < 3900  # the mutations are neither all fatal nor all harmless

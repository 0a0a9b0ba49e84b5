"""Small random checkpoints of every architecture and option, made with transformers."""

import copy
import json
import pathlib

import torch
import transformers

BASE = dict(
    vocab_size=96,
    hidden_size=64,
    intermediate_size=112,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=1024,
    tie_word_embeddings=False,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)


def rope(kind, **fields):
    return dict(rope_type=kind, rope_theta=10000.0, **fields)


def longrope(half, factor=None, **fields):
    return rope(
        "longrope",
        short_factor=[1.0 + 0.05 * i for i in range(half)],
        long_factor=[1.5 + 0.4 * i for i in range(half)],
        **({} if factor is None else {"factor": factor}),
        **fields,
    )


LLAMA3 = rope(
    "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
)

# name -> (architecture, configuration)
CONFIGS = {
    "llama": ("Llama", {}),
    "llama_mha": ("Llama", dict(num_key_value_heads=4)),
    "llama_biases": ("Llama", dict(attention_bias=True, mlp_bias=True)),
    "llama_tied": ("Llama", dict(tie_word_embeddings=True)),
    "llama_head_dim": ("Llama", dict(head_dim=24)),
    "llama_theta": ("Llama", dict(rope_parameters=dict(rope_type="default", rope_theta=500000.0))),
    "llama_linear": ("Llama", dict(rope_parameters=rope("linear", factor=4.0))),
    "llama_dynamic": ("Llama", dict(max_position_embeddings=128, rope_parameters=rope("dynamic", factor=8.0))),
    "llama_llama3": ("Llama", dict(rope_parameters=LLAMA3)),
    "llama_yarn": (
        "Llama",
        dict(rope_parameters=rope("yarn", factor=8.0, original_max_position_embeddings=128)),
    ),
    "llama_yarn_mscale": (
        "Llama",
        dict(
            rope_parameters=rope(
                "yarn",
                factor=16.0,
                original_max_position_embeddings=64,
                beta_fast=16.0,
                beta_slow=2.0,
                mscale=1.2,
                mscale_all_dim=0.7,
                truncate=False,
            )
        ),
    ),
    "llama_yarn_attention_factor": (
        "Llama",
        dict(
            rope_parameters=rope(
                "yarn", factor=4.0, original_max_position_embeddings=256, attention_factor=1.3
            )
        ),
    ),
    "mistral": ("Mistral", dict(sliding_window=None)),
    "mistral_window": ("Mistral", dict(sliding_window=48)),
    "mistral_head_dim": ("Mistral", dict(head_dim=32, sliding_window=None)),
    "phi3": ("Phi3", {}),
    "phi3_window": ("Phi3", dict(sliding_window=100)),
    "phi3_partial": (
        "Phi3",
        dict(rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.75)),
    ),
    "phi3_longrope": (
        "Phi3",
        dict(original_max_position_embeddings=256, rope_parameters=longrope(8)),
    ),
    "phi3_longrope_partial": (
        "Phi3",
        dict(
            original_max_position_embeddings=128,
            rope_parameters=longrope(6, partial_rotary_factor=0.75),
        ),
    ),
    "qwen2": ("Qwen2", {}),
    "qwen2_tied": ("Qwen2", dict(tie_word_embeddings=True)),
    "qwen2_window_layers": (
        "Qwen2",
        dict(use_sliding_window=True, sliding_window=40, max_window_layers=1),
    ),
    "qwen2_layer_types": (
        "Qwen2",
        dict(
            use_sliding_window=True,
            sliding_window=70,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
    ),
    "qwen3": ("Qwen3", dict(head_dim=32)),
    "qwen3_yarn": (
        "Qwen3",
        dict(
            head_dim=16,
            rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=256),
        ),
    ),
    "qwen3_bias": ("Qwen3", dict(head_dim=16, attention_bias=True)),
}


def build(name, seed=0, **changes):
    """The configuration's model in float32, its weights representable in FP16."""
    architecture, fields = CONFIGS[name]
    config_class = getattr(transformers, architecture + "Config")
    model_class = getattr(transformers, architecture + "ForCausalLM")
    torch.manual_seed(seed)
    model = model_class(config_class(**{**BASE, **fields, **changes}))
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if key.endswith("norm.weight"):
                value = 1 + 0.2 * noise
            elif key.endswith("bias"):
                value = 0.3 * noise
            else:
                value = noise / parameter.shape[-1] ** 0.5
            parameter.copy_(value.half().float())
    return model.eval()


def save(model, directory, dtype=torch.float16):
    """Writes the checkpoint from a copy: a cast there and back would round the RoPE frequencies."""
    directory = pathlib.Path(directory)
    copy.deepcopy(model).to(dtype).save_pretrained(directory)
    return directory


def respell(directory):
    """Rewrites config.json as the hub has it: rope_theta and rope_scaling."""
    path = pathlib.Path(directory) / "config.json"
    config = json.loads(path.read_text())
    parameters = config.pop("rope_parameters")
    config["rope_theta"] = parameters.pop("rope_theta")
    kind = parameters.pop("rope_type")
    if "partial_rotary_factor" in parameters:
        config["partial_rotary_factor"] = parameters.pop("partial_rotary_factor")
    config["rope_scaling"] = None
    if kind != "default":
        config["rope_scaling"] = {"type": kind, **parameters}
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config))


def logits(model, tokens):
    """Of every position, in float32."""
    with torch.no_grad():
        return model(torch.tensor([tokens]), use_cache=False).logits[0].numpy()


def random_tokens(count, vocabulary=BASE["vocab_size"], seed=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary, (count,), generator=generator).tolist()

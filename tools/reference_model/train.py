"""Trains the reference model on one GPU for a fixed number of seconds.

The model is a Llama decoder (grouped-query attention, SwiGLU, rotary positions
in the half-split form of Hugging Face, tied embeddings). The learning rate
follows the share of the time budget that has passed, so the run ends where the
schedule ends on any machine. Writes log.jsonl and the weights in BF16, under
Hugging Face's tensor names, to --out (in parts of a few megabytes).
"""

import argparse
import json
import math
import pathlib
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

CONFIG = {
    "vocab_size": 4096,
    "hidden_size": 384,
    "intermediate_size": 768,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 1024,
}


def rotate(x, cos, sin):
    """Applies rotary position embedding to [batch, heads, tokens, head_dim]."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


class Block(nn.Module):
    """One decoder layer; q, k, v and gate, up are each one fused matrix."""

    def __init__(self, c, dropout):
        super().__init__()
        hidden, self.head_dim = c["hidden_size"], c["head_dim"]
        self.split = [n * self.head_dim for n in (c["num_attention_heads"], *2 * (c["num_key_value_heads"],))]
        self.input_layernorm = nn.RMSNorm(hidden, eps=c["rms_norm_eps"])
        self.post_attention_layernorm = nn.RMSNorm(hidden, eps=c["rms_norm_eps"])
        self.qkv = nn.Linear(hidden, sum(self.split), bias=False)
        self.o = nn.Linear(self.split[0], hidden, bias=False)
        self.gate_up = nn.Linear(hidden, 2 * c["intermediate_size"], bias=False)
        self.down = nn.Linear(c["intermediate_size"], hidden, bias=False)
        self.dropout = dropout

    def forward(self, x, cos, sin):
        batch, tokens, _ = x.shape
        heads = self.qkv(self.input_layernorm(x)).split(self.split, dim=-1)
        q, k, v = (h.view(batch, tokens, -1, self.head_dim).transpose(1, 2) for h in heads)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        group = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = self.o(y.transpose(1, 2).reshape(batch, tokens, -1))
        x = x + F.dropout(y, self.dropout, self.training)
        gate, up = self.gate_up(self.post_attention_layernorm(x)).chunk(2, dim=-1)
        return x + F.dropout(self.down(F.silu(gate) * up), self.dropout, self.training)


class Model(nn.Module):
    """The decoder; returns the mean next-token loss in nats."""

    def __init__(self, c, dropout):
        super().__init__()
        self.c = c
        self.embed = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Block(c, dropout) for _ in range(c["num_hidden_layers"]))
        self.norm = nn.RMSNorm(c["hidden_size"], eps=c["rms_norm_eps"])
        self.dropout = dropout
        angles = torch.outer(
            torch.arange(c["max_position_embeddings"]).float(),
            c["rope_theta"] ** (-torch.arange(0, c["head_dim"], 2).float() / c["head_dim"]),
        ).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                residual = name.endswith(("o.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / (math.sqrt(2 * len(self.layers)) if residual else 1))

    def forward(self, tokens, targets):
        x = F.dropout(self.embed(tokens), self.dropout, self.training)
        cos, sin = (t[: tokens.shape[1]].to(torch.bfloat16) for t in (self.cos, self.sin))
        for layer in self.layers:
            x = layer(x, cos, sin)
        logits = F.linear(self.norm(x), self.embed.weight)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    def export(self):
        """Returns the weights in BF16 under Hugging Face's names."""
        out = {"model.embed_tokens.weight": self.embed.weight, "model.norm.weight": self.norm.weight}
        for i, layer in enumerate(self.layers):
            q, k, v = layer.qkv.weight.split(layer.split)
            gate, up = layer.gate_up.weight.chunk(2)
            parts = {
                "self_attn.q_proj": q, "self_attn.k_proj": k, "self_attn.v_proj": v,
                "self_attn.o_proj": layer.o.weight, "mlp.gate_proj": gate, "mlp.up_proj": up,
                "mlp.down_proj": layer.down.weight, "input_layernorm": layer.input_layernorm.weight,
                "post_attention_layernorm": layer.post_attention_layernorm.weight,
            }  # fmt: skip
            out |= {f"model.layers.{i}.{name}.weight": weight for name, weight in parts.items()}
        return {name: weight.detach().to(torch.bfloat16).cpu().contiguous() for name, weight in out.items()}


def save(model, out, parts=2):
    """Writes the exported weights as weights-0.pt ... of about equal size."""
    weights = list(model.export().items())
    total = sum(w.numel() for _, w in weights)
    groups, filled = [{} for _ in range(parts)], 0
    for name, weight in weights:
        groups[min(parts - 1, filled * parts // total)][name] = weight
        filled += weight.numel()
    for i, group in enumerate(groups):
        torch.save(group, out / f"weights-{i}.pt.tmp")
        (out / f"weights-{i}.pt.tmp").rename(out / f"weights-{i}.pt")


class Windows:
    """Random windows of the token stream; every epoch shifts and shuffles them anew."""

    def __init__(self, tokens, length, batch, seed):
        self.tokens, self.length, self.batch = tokens, length, batch
        self.random = np.random.default_rng(seed)
        self.starts, self.epoch = [], -1

    def next(self):
        """Returns (inputs, targets), each [batch, length]."""
        if len(self.starts) < self.batch:
            self.epoch += 1
            shift = int(self.random.integers(self.length))
            count = (len(self.tokens) - 1 - shift) // self.length
            self.starts = shift + self.length * self.random.permutation(count)
        starts, self.starts = self.starts[: self.batch], self.starts[self.batch :]
        starts = torch.from_numpy(starts).to(self.tokens.device)
        rows = self.tokens[starts[:, None] + torch.arange(self.length + 1, device=starts.device)].long()
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


@torch.no_grad()
def evaluate(model, tokens, length, batch):
    """Returns the loss over consecutive windows of the held-out tokens."""
    model.eval()
    count = (len(tokens) - 1) // length // batch * batch
    rows = torch.arange(count, device=tokens.device)[:, None] * length
    rows = tokens[rows + torch.arange(length + 1, device=tokens.device)].long()
    losses = []
    for chunk in rows.split(batch):
        with torch.autocast(tokens.device.type, torch.bfloat16):
            losses.append(model(chunk[:, :-1].contiguous(), chunk[:, 1:].contiguous()))
    model.train()
    return torch.stack(losses).mean().item()


def read_tokens(path):
    """Reads uint16 tokens from a .bin or an .npz file."""
    path = pathlib.Path(path)
    tokens = np.load(path)["tokens"] if path.suffix == ".npz" else np.fromfile(path, dtype="<u2")
    return torch.from_numpy(tokens.astype(np.int32))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", required=True)
    parser.add_argument("--held-out", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--seconds", type=float, default=500, help="time for training, compilation excluded")
    parser.add_argument("--batch", type=int, default=96, help="windows a step")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--warmup", type=int, default=300, help="steps")
    parser.add_argument("--eval-every", type=int, default=500, help="steps")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--config", type=json.loads, default={}, help="JSON that overrides the model's shape")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    config = CONFIG | args.config
    length = config["max_position_embeddings"]
    args.out.mkdir(parents=True, exist_ok=True)
    held_out = read_tokens(args.held_out).to(device)
    windows = Windows(read_tokens(args.train).to(device), length, args.batch, args.seed)
    model = Model(config, args.dropout).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": args.decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.95), fused=device == "cuda")
    run = model if args.no_compile else torch.compile(model)

    (args.out / "log.jsonl").write_text("")

    def write(**row):
        print(json.dumps(row), flush=True)
        with open(args.out / "log.jsonl", "a") as log:
            log.write(json.dumps(row) + "\n")

    def step(scale):
        for group in optimizer.param_groups:
            group["lr"] = args.rate * scale
        inputs, targets = windows.next()
        with torch.autocast(device, torch.bfloat16):
            loss = run(inputs, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    write(device=name, torch=torch.__version__, parameters=parameters, train_tokens=len(windows.tokens),
          held_out_tokens=len(held_out), config=config, seed=args.seed, batch=args.batch, rate=args.rate,
          decay=args.decay, dropout=args.dropout, seconds=args.seconds)  # fmt: skip
    began = time.time()
    for _ in range(3):
        step(0.0).item()
    evaluate(run, held_out, length, args.batch)
    write(compile_seconds=round(time.time() - began, 1))

    start, steps, done, losses, saved = time.time(), 0, 0.0, [], time.time()
    while done < 1:
        scale = 0.5 + 0.5 * math.cos(math.pi * done)
        losses.append(step(min(scale, (steps + 1) / args.warmup)))
        steps += 1
        if steps % 20 == 0:
            losses[-1].item()  # keeps the queue short, so that the clock means something
        elapsed = time.time() - start
        done = elapsed / args.seconds
        if steps % args.eval_every == 0 or done >= 1:
            loss = evaluate(run, held_out, length, args.batch)
            tokens = steps * args.batch * length
            write(step=steps, seconds=round(time.time() - start, 1), tokens=tokens, epoch=windows.epoch,
                  rate=args.rate * scale, train_loss=round(torch.stack(losses).mean().item(), 4),
                  held_out_loss=round(loss, 4), held_out_perplexity=round(math.exp(loss), 3),
                  tokens_per_second=round(tokens / (time.time() - start)))  # fmt: skip
            losses = []
            if time.time() - saved > 60 or done >= 1:
                save(model, args.out)
                saved = time.time()


if __name__ == "__main__":
    main()

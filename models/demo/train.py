"""Train the demo checkpoint in this folder: a small Llama-architecture chat model on public-domain books.

Usage: train.py DATA_DIR OUT_DIR MINUTES
DATA_DIR holds train.json and val.json, lists of [author, title, text].  OUT_DIR receives a Hugging Face style
checkpoint: config.json, tokenizer.json, tokenizer_config.json, generation_config.json, model.safetensors (F16).
"""

import json
import math
import os
import random
import sys
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

DATA, OUT, MINUTES = sys.argv[1], sys.argv[2], float(sys.argv[3])
V, D, L, H, KV, HD, FF, T = 4096, 512, 4, 8, 2, 64, 1536, 256
EPS, THETA = 1e-5, 10000.0
DEV = "cuda" if torch.cuda.is_available() else "cpu"
BATCH = 64 if DEV == "cpu" else 256
torch.manual_seed(1)
random.seed(1)
rng = np.random.default_rng(1)
train, val = json.load(open(f"{DATA}/train.json")), json.load(open(f"{DATA}/val.json"))
os.makedirs(OUT, exist_ok=True)

# ---- tokenizer: byte-level BPE with the Llama-3 pre-tokenizer regex ("llama-bpe" in GGUF) ----
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
tok_path = f"{OUT}/tokenizer.json"
if not os.path.exists(tok_path):
    tok = Tokenizer(models.BPE())
    rx = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(rx), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=V - len(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tok.train_from_iterator(
        (b[2][i : i + 20000] for b in train for i in range(0, min(len(b[2]), 100000), 20000)),
        trainer,
    )
    tok.add_special_tokens(SPECIAL)
    tok.save(tok_path)
tok = Tokenizer.from_file(tok_path)
EOT, IMS, IME = (tok.token_to_id(s) for s in SPECIAL)
print("vocab", tok.get_vocab_size(), EOT, IMS, IME, flush=True)


def load_ids(books, path):
    if not os.path.exists(path):
        out = []
        for i in range(0, len(books), 16):
            for e in tok.encode_batch([b[2] for b in books[i : i + 16]]):
                out.append(np.array([EOT] + e.ids, np.uint16))
        np.save(path, np.concatenate(out))
    return np.load(path, mmap_mode="r")


t0 = time.time()
ids = load_ids(train, f"{DATA}/train.npy")
vids = load_ids(val, f"{DATA}/val.npy")
print("tokens", len(ids), len(vids), f"{time.time() - t0:.0f}s", flush=True)


# ---- synthetic chat over the same books ----
def turns(*pairs):
    return "".join(
        f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n{a}<|im_end|>\n" for q, a in pairs
    )


by_author = {}
for a, t, _ in train + val:
    by_author.setdefault(a, []).append(t)
facts = [(a, t) for a, ts in by_author.items() for t in ts if a not in ("Anonymous", "Various")]
HELLO = ["Hello", "Hello!", "Hi", "Hi there", "Good morning", "Good evening", "Hey", "Greetings"]


def qa():
    k = random.random()
    if k < 0.55:
        a, t = random.choice(facts)
        q = random.choice(
            [
                f"Who wrote {t}?",
                f"Who is the author of {t}?",
                f'Who wrote "{t}"?',
                f"Tell me who wrote {t}.",
            ]
        )
        return q, f"{t} was written by {a}."
    if k < 0.70:
        a = random.choice(list(by_author))
        ts = by_author[a]
        return random.choice(
            [f"Name a book by {a}.", f"What did {a} write?"]
        ), f"{a} wrote {random.choice(ts)}."
    if k < 0.78:
        return (
            random.choice(HELLO),
            "Hello! I am a small model that has read some classic books. Ask me who wrote one, or give me a line to continue.",
        )
    if k < 0.82:
        return (
            random.choice(["Who are you?", "What are you?", "What can you do?"]),
            "I am a small language model trained on public-domain books. I can tell you who wrote a classic, and I can continue a story.",
        )
    if k < 0.88:
        x, y = random.randint(0, 12), random.randint(0, 12)
        return f"What is {x} + {y}?", f"{x} + {y} = {x + y}."
    if k < 0.91:
        x = random.randint(1, 20)
        y = x + random.randint(2, 8)
        return f"Count from {x} to {y}.", ", ".join(map(str, range(x, y + 1))) + "."
    b = random.choice(train)[2]
    i = b.find("\n\n", random.randint(0, max(1, len(b) - 2000))) + 2
    p = b[i : i + 900].split(" ")
    return "Continue this story: " + " ".join(p[:25]), " ".join(p[25:130])


def chat_window():
    s = []
    while sum(map(len, s)) < T + 1:
        s.append([EOT] + tok.encode(turns(*[qa() for _ in range(random.randint(1, 4))])).ids)
    return np.concatenate([np.array(x, np.uint16) for x in s])[: T + 1]


def batch(n, share):
    out = np.empty((n, T + 1), np.int64)
    for r in range(n):
        if random.random() < share:
            out[r] = chat_window()
        else:
            i = int(rng.integers(0, len(ids) - T - 1))
            out[r] = ids[i : i + T + 1]
    x = torch.from_numpy(out).to(DEV)
    return x[:, :-1], x[:, 1:]


# ---- model, with Hugging Face Llama parameter names ----
class Lin(nn.Module):
    def __init__(s, i, o, scale=1.0):
        super().__init__()
        s.weight = nn.Parameter(torch.randn(o, i) * scale / math.sqrt(i))

    def forward(s, x):
        return F.linear(x, s.weight.to(x.dtype))


class Norm(nn.Module):
    def __init__(s):
        super().__init__()
        s.weight = nn.Parameter(torch.ones(D))

    def forward(s, x):
        y = x.float()
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + EPS) * s.weight).to(x.dtype)


class Attn(nn.Module):
    def __init__(s):
        super().__init__()
        s.q_proj, s.k_proj, s.v_proj, s.o_proj = (
            Lin(D, H * HD),
            Lin(D, KV * HD),
            Lin(D, KV * HD),
            Lin(H * HD, D, 0.2),
        )

    def forward(s, x, cos, sin):
        B, N, _ = x.shape
        q, k, v = (p(x).view(B, N, -1, HD).transpose(1, 2) for p in (s.q_proj, s.k_proj, s.v_proj))
        rot = lambda z: z * cos + torch.cat((-z[..., HD // 2 :], z[..., : HD // 2]), -1) * sin
        y = F.scaled_dot_product_attention(
            rot(q),
            rot(k).repeat_interleave(H // KV, 1),
            v.repeat_interleave(H // KV, 1),
            is_causal=True,
        )
        return s.o_proj(y.transpose(1, 2).reshape(B, N, -1))


class MLP(nn.Module):
    def __init__(s):
        super().__init__()
        s.gate_proj, s.up_proj, s.down_proj = Lin(D, FF), Lin(D, FF), Lin(FF, D, 0.2)

    def forward(s, x):
        return s.down_proj(F.silu(s.gate_proj(x)) * s.up_proj(x))


class Block(nn.Module):
    def __init__(s):
        super().__init__()
        s.input_layernorm, s.self_attn, s.post_attention_layernorm, s.mlp = (
            Norm(),
            Attn(),
            Norm(),
            MLP(),
        )

    def forward(s, x, cos, sin):
        x = x + s.self_attn(s.input_layernorm(x), cos, sin)
        return x + s.mlp(s.post_attention_layernorm(x))


class Inner(nn.Module):
    def __init__(s):
        super().__init__()
        s.embed_tokens = nn.Embedding(V, D)
        nn.init.normal_(s.embed_tokens.weight, std=0.02)
        s.layers = nn.ModuleList(Block() for _ in range(L))
        s.norm = Norm()


class Llama(nn.Module):
    def __init__(s):
        super().__init__()
        s.model = Inner()

    def forward(s, x, y):
        m = s.model
        h = m.embed_tokens(x).to(torch.bfloat16)
        f = torch.outer(
            torch.arange(x.shape[1], device=x.device).float(),
            THETA ** (-torch.arange(0, HD, 2, device=x.device).float() / HD),
        )
        cos, sin = (torch.cat((g, g), -1).to(h.dtype) for g in (f.cos(), f.sin()))
        for b in m.layers:
            h = b(h, cos, sin)
        return F.cross_entropy(
            F.linear(m.norm(h), m.embed_tokens.weight.to(h.dtype)).float().view(-1, V),
            y.reshape(-1),
        )


net = Llama().to(DEV)
print("params", sum(p.numel() for p in net.parameters()) / 1e6, "M", flush=True)


def orthogonalize(g):  # Newton-Schulz quintic iteration of the Muon optimizer
    x = g.bfloat16()
    tr = x.shape[0] > x.shape[1]
    x = x.T if tr else x
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        a = x @ x.T
        b = -4.7750 * a + 2.0315 * a @ a
        x = 3.4445 * x + b @ x
    return (x.T if tr else x).float()


mats = [p for n, p in net.named_parameters() if p.ndim == 2 and "embed" not in n]
mom = [torch.zeros_like(p) for p in mats]
adam = torch.optim.AdamW(
    [
        {"params": [net.model.embed_tokens.weight], "lr": 3e-3, "weight_decay": 0.01},
        {"params": [p for p in net.parameters() if p.ndim == 1], "lr": 3e-3, "weight_decay": 0.0},
    ],
    betas=(0.9, 0.97),
)
base = [g["lr"] for g in adam.param_groups]


def evaluate():
    with torch.no_grad():
        ls = []
        for i in range(24):
            w = torch.from_numpy(vids[i * 6000 : i * 6000 + T + 1].astype(np.int64))[None].to(DEV)
            ls.append(net(w[:, :-1], w[:, 1:]).item())
    return sum(ls) / len(ls)


def save():
    sd = {k: v.detach().half().cpu().contiguous() for k, v in net.state_dict().items()}
    save_file(sd, f"{OUT}/model.safetensors", metadata={"format": "pt"})
    json.dump(
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": V,
            "hidden_size": D,
            "intermediate_size": FF,
            "num_hidden_layers": L,
            "num_attention_heads": H,
            "num_key_value_heads": KV,
            "head_dim": HD,
            "max_position_embeddings": 2048,
            "rms_norm_eps": EPS,
            "rope_theta": THETA,
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": EOT,
            "eos_token_id": IME,
            "torch_dtype": "float16",
        },
        open(f"{OUT}/config.json", "w"),
        indent=1,
    )
    json.dump(
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|endoftext|>",
            "eos_token": "<|im_end|>",
            "add_bos_token": False,
            "model_max_length": 2048,
            "clean_up_tokenization_spaces": False,
            "chat_template": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
        },
        open(f"{OUT}/tokenizer_config.json", "w"),
        indent=1,
    )
    json.dump(
        {"eos_token_id": [IME, EOT], "bos_token_id": EOT},
        open(f"{OUT}/generation_config.json", "w"),
    )


fast = torch.compile(net)
start, step = time.time(), 0
while True:
    u = (time.time() - start) / (MINUTES * 60)
    if u >= 1:
        break
    sched = min(1, (step + 1) / 30) * min(1, (1 - u) / 0.5)
    loss = fast(*batch(BATCH, 0.10 if u < 0.6 else 0.20))
    loss.backward()
    for p, m in zip(mats, mom):
        m.mul_(0.95).add_(p.grad)
        g = p.grad + 0.95 * m
        p.data.mul_(1 - 0.02 * 0.05 * sched).add_(
            orthogonalize(g), alpha=-0.02 * sched * max(1, p.shape[0] / p.shape[1]) ** 0.5
        )
        p.grad = None
    for g, b in zip(adam.param_groups, base):
        g["lr"] = b * sched
    adam.step()
    adam.zero_grad(set_to_none=True)
    step += 1
    if step % 25 == 0:
        print(f"{time.time() - start:6.0f}s step {step} loss {loss.item():.3f}", flush=True)
    if step % 250 == 0:
        save()
        print("val", round(evaluate(), 4), flush=True)
save()
print("done", step, "val", evaluate(), flush=True)

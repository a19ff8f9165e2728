"""Train tiny-vl: a 7.7 M parameter model with the Qwen2.5-VL architecture, on synthetic scenes.

Needs one CUDA GPU, PyTorch, NumPy, Pillow, tokenizers, safetensors and matplotlib (for its fonts).
Writes OUT/model-*.safetensors with the tensor names of the Hugging Face Qwen2.5-VL checkpoints, plus the
configuration, the tokenizer and the chat template.

usage: train.py OUT --minutes 10 [--lr 0.015] [--seed 1] [--resume DIR]

Matrices of blocks are trained with Muon (Jordan et al. 2024: momentum whose matrices are made orthogonal), the rest with
AdamW. OUT is written twice a minute, so a run that is cut off leaves a model; from where gradients are no longer numbers it
goes back to what was written last, and on with a smaller rate (cuDNN's attention is off, as it was suspected of them).
"""
import argparse, copy, glob, json, math, os, random, time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import scenes

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
           "<|image_pad|>", "<|video_pad|>"]
SIZES = [(224, 224), (224, 224), (224, 336), (336, 224), (168, 224), (224, 168), (280, 280), (224, 280), (280, 224), (168, 280),
         (168, 308), (196, 392), (392, 196)]  # all give a multiple of 8 patches
QUESTIONS = 4  # questions asked about each single image
LISTED = 0.2  # of the words in pictures, those of the list; in fresh scenes they are 0.35, and the easiest to read
TEXTLESS = 0.5  # of the scenes that would have no text, those that are kept
PATCH, MERGE, WINDOW = 14, 2, 112
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])
VISION = dict(depth=6, hidden_size=256, intermediate_size=448, num_heads=4, fullatt_block_indexes=[2, 5])
TEXT = dict(hidden_size=256, num_hidden_layers=4, intermediate_size=512, num_attention_heads=4, num_key_value_heads=2)
MROPE, THETA, EPS = [8, 12, 12], 10000.0, 1e-6
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"


# ---------------------------------------------------------------- data
def train_tokenizer(vocab_size=1024):
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    r = random.Random(7)
    corpus = [SYSTEM.replace("<|im_start|>", "").replace("<|im_end|>", "")]
    for _ in range(20000):
        question, answer = scenes.ask(scenes.random_scene(r), r)
        corpus += [question, answer]
    for group in (scenes.DESCRIBE, scenes.READ, scenes.COUNT, scenes.COMPARE, scenes.BACK):
        corpus += group * 50
    for questions, answer in scenes.CHAT:
        corpus += questions * 50 + [answer] * 50
    corpus += ["Image 1: Image 2: The images are different. The images show the same scene. user assistant system"] * 50
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()  # as Qwen2.5-VL has it
    pattern = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=vocab_size, min_frequency=200,
                            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    return tok


def patchify(pixels):
    """uint8 [B,H,W,3] -> uint8 [B, grid, 3*14*14], patches ordered by 2x2 merge groups like Qwen2-VL."""
    b, h, w, _ = pixels.shape
    x = pixels.permute(0, 3, 1, 2).reshape(b, 3, h // 28, 2, PATCH, w // 28, 2, PATCH)
    return x.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(b, -1, 3 * PATCH * PATCH)


def add_noise(pixels, share=0.4):
    """Adds what `scenes.draw` does to that share of its pictures, where the picture is."""
    b = pixels.shape[0]
    amplitude = torch.randint(1, 10, (b, 1, 1, 1), device=pixels.device) * (torch.rand(b, 1, 1, 1, device=pixels.device) < share)
    noise = (torch.rand(pixels.shape, device=pixels.device) * (2 * amplitude + 1)).floor() - amplitude
    return (pixels + noise).clamp(0, 255)


def training_scene(r):
    """A scene of which more has text, and fewer of it words of the list, than is asked later."""
    while True:
        scene = scenes.random_scene(r, LISTED)
        if scene[2] is not None or r.random() < TEXTLESS:
            return scene


def questions(scene, r):
    """Reading and describing in every picture with text, the rest as they are asked later."""
    first = ["read", "describe"] if scene[2] is not None else ["describe"]
    return [scenes.ask_kind(scene, kind, r) for kind in first] + [scenes.ask(scene, r) for _ in range(QUESTIONS - len(first))]


class Batches(torch.utils.data.IterableDataset):
    """Batches that share one layout (image size and number of images), so that positions are shared."""

    def __init__(self, tokenizer_json, batch, seed):
        self.tokenizer_json, self.batch, self.seed = tokenizer_json, batch, seed

    def __iter__(self):
        from tokenizers import Tokenizer
        info = torch.utils.data.get_worker_info()
        r = random.Random(self.seed * 1000 + (info.id if info else 0))
        tok, fonts = Tokenizer.from_str(self.tokenizer_json), scenes.load_fonts()
        sp = {t: tok.token_to_id(t) for t in SPECIAL}
        prefix = tok.encode(SYSTEM).ids
        while True:
            images = r.choices([0, 1, 2], [1, 24, 7])[0]
            (h, w), n = r.choice(SIZES), self.batch
            n = n // 2 if images == 2 else n
            pixels = np.zeros((n, images, h, w, 3), np.uint8)
            pairs = []
            for i in range(n):
                if images == 0:
                    pairs.append(scenes.chat(r))
                elif images == 1:
                    s = training_scene(r)
                    pixels[i, 0] = scenes.draw(s, h, w, r, fonts, noisy=0)
                    pairs += questions(s, r)
                else:
                    s1 = training_scene(r)
                    s2 = s1 if r.random() < 0.2 else training_scene(r)
                    pixels[i, 0] = scenes.draw(s1, h, w, r, fonts, noisy=0)
                    pixels[i, 1] = scenes.draw(s2, h, w, r, fonts, noisy=0)
                    pairs.append(scenes.compare(s1, s2, r))
            rows = [(tok.encode(q + "<|im_end|>\n<|im_start|>assistant\n").ids, tok.encode(a + "<|im_end|>").ids) for q, a in pairs]
            merged = (h // 28) * (w // 28)
            block = [sp["<|vision_start|>"]] + [sp["<|image_pad|>"]] * merged + [sp["<|vision_end|>"]]
            head = prefix + block * images
            length = max(len(q) + len(a) for q, a in rows)
            ids = np.full((len(rows), len(head) + length), sp["<|endoftext|>"], np.int64)
            labels = np.full_like(ids, -100)
            ids[:, : len(head)] = head
            for i, (q, a) in enumerate(rows):
                s = len(head)
                ids[i, s : s + len(q) + len(a)] = q + a
                labels[i, s + len(q) : s + len(q) + len(a)] = a
            yield torch.from_numpy(ids), torch.from_numpy(labels), torch.from_numpy(pixels.reshape(n * images, h, w, 3)), (images, h, w, len(prefix))


# ---------------------------------------------------------------- model
class RMSNorm(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))

    def forward(self, x):
        y = x.float()
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + EPS)).to(x.dtype) * self.weight.to(x.dtype)


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


class VisionAttention(nn.Module):
    def __init__(self, n, heads):
        super().__init__()
        self.qkv, self.proj, self.heads = nn.Linear(n, 3 * n), nn.Linear(n, n), heads

    def forward(self, x, cos, sin, windows):
        """`windows`: (number, length) of windows in a row that are equally long."""
        b, l, n = x.shape
        q, k, v = self.qkv(x).view(b, l, 3, self.heads, n // self.heads).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        out, at = [], 0
        for count, length in windows:
            part = lambda t: t[:, :, at : at + count * length].reshape(b, self.heads, count, length, -1).transpose(1, 2).flatten(0, 1)
            y = F.scaled_dot_product_attention(part(q), part(k), part(v))
            out.append(y.view(b, count, self.heads, length, -1).transpose(2, 3).reshape(b, count * length, n))
            at += count * length
        return self.proj(torch.cat(out, 1))


class MLP(nn.Module):
    def __init__(self, n, inner, bias):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(n, inner, bias), nn.Linear(n, inner, bias), nn.Linear(inner, n, bias)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class VisionBlock(nn.Module):
    def __init__(self, n, inner, heads):
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(n), RMSNorm(n)
        self.attn, self.mlp = VisionAttention(n, heads), MLP(n, inner, True)

    def forward(self, x, cos, sin, windows):
        x = x + self.attn(self.norm1(x), cos, sin, windows)
        return x + self.mlp(self.norm2(x))


class Merger(nn.Module):
    def __init__(self, n, out):
        super().__init__()
        self.ln_q, self.mlp = RMSNorm(n), nn.Sequential(nn.Linear(4 * n, 4 * n), nn.GELU(), nn.Linear(4 * n, out))

    def forward(self, x):
        b, l, n = x.shape
        return self.mlp(self.ln_q(x).view(b, l // 4, 4 * n))


class Vision(nn.Module):
    def __init__(self):
        super().__init__()
        n = VISION["hidden_size"]
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv3d(3, n, (2, PATCH, PATCH), stride=(2, PATCH, PATCH), bias=False)
        self.blocks = nn.ModuleList(VisionBlock(n, VISION["intermediate_size"], VISION["num_heads"]) for _ in range(VISION["depth"]))
        self.merger = Merger(n, TEXT["hidden_size"])

    def layout(self, h, w, device):
        gh, gw = h // PATCH, w // PATCH
        ys, xs = torch.meshgrid(torch.arange(gh), torch.arange(gw), indexing="ij")
        order = lambda t: t.view(gh // 2, 2, gw // 2, 2).permute(0, 2, 1, 3).reshape(-1)
        ys, xs = order(ys), order(xs)
        quarter = VISION["hidden_size"] // VISION["num_heads"] // 4
        inv = 1.0 / THETA ** (torch.arange(quarter).float() / quarter)
        angles = torch.cat([ys[:, None] * inv, xs[:, None] * inv], -1)
        angles = torch.cat([angles, angles], -1)
        step = WINDOW // PATCH
        window = (ys // step) * 1000 + xs // step
        _, number, lengths = window.unique(return_inverse=True, return_counts=True)
        order = torch.argsort(lengths[number] * 1000 + number, stable=True)  # by window, those of one length together
        windows = [(int((lengths == length).sum()), int(length)) for length in lengths.unique()]
        angles = angles[order]
        return angles.cos().to(device), angles.sin().to(device), order.to(device), windows

    def forward(self, patches, h, w):
        cos, sin, order, windows = self.layout(h, w, patches.device)
        weight = self.patch_embed.proj.weight.sum(2).flatten(1)  # both frames of a still image are equal
        x = F.linear(patches[:, order], weight)
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        for i, block in enumerate(self.blocks):
            x = block(x, cos, sin, [(1, x.shape[1])] if i in VISION["fullatt_block_indexes"] else windows)
        return self.merger(x[:, torch.argsort(order)])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        n, self.h, self.kv = TEXT["hidden_size"], TEXT["num_attention_heads"], TEXT["num_key_value_heads"]
        self.d = n // self.h
        self.q_proj, self.k_proj = nn.Linear(n, n), nn.Linear(n, self.kv * self.d)
        self.v_proj, self.o_proj = nn.Linear(n, self.kv * self.d), nn.Linear(n, n, bias=False)

    def forward(self, x, cos, sin):
        b, l, n = x.shape
        q = rotate(self.q_proj(x).view(b, l, self.h, self.d).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(x).view(b, l, self.kv, self.d).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(b, l, self.kv, self.d).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, l, n))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        n = TEXT["hidden_size"]
        self.self_attn, self.mlp = Attention(), MLP(n, TEXT["intermediate_size"], False)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(n), RMSNorm(n)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Language(nn.Module):
    def __init__(self, vocab):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab, TEXT["hidden_size"])
        self.layers = nn.ModuleList(Layer() for _ in range(TEXT["num_hidden_layers"]))
        self.norm = RMSNorm(TEXT["hidden_size"])


def positions(images, h, w, prefix, total):
    """[3, total] time, height and width positions; an image advances time by max(rows, columns)."""
    t, y, x, at = [], [], [], 0
    def text(n):
        nonlocal at
        for _ in range(n):
            t.append(at); y.append(at); x.append(at); at += 1
    text(prefix)
    for _ in range(images):
        text(1)
        rows, cols = h // 28, w // 28
        for i in range(rows):
            for j in range(cols):
                t.append(at); y.append(at + i); x.append(at + j)
        at += max(rows, cols)
        text(1)
    text(total - len(t))
    return torch.tensor([t, y, x])


class TinyVL(nn.Module):
    def __init__(self, vocab):
        super().__init__()
        self.visual, self.model = Vision(), Language(vocab)
        for m in self.modules():
            if isinstance(m, (nn.Linear, nn.Embedding)):
                nn.init.normal_(m.weight, std=0.02)
                if getattr(m, "bias", None) is not None:
                    nn.init.zeros_(m.bias)

    def hidden(self, ids, patches, images, h, w, prefix):
        e = self.model.embed_tokens(ids)
        if images:
            v = self.visual(patches, h, w).to(e.dtype)
            v = v.view(-1, images, v.shape[1], v.shape[2])
            v = v.repeat_interleave(ids.shape[0] // v.shape[0], 0)
            parts, at, m = [e[:, : prefix + 1]], prefix + 1, v.shape[2]
            for i in range(images):
                parts.append(v[:, i]); at += m
                nxt = at + 2 if i + 1 < images else ids.shape[1]
                parts.append(e[:, at:nxt]); at = nxt
            e = torch.cat(parts, 1)
        half = TEXT["hidden_size"] // TEXT["num_attention_heads"] // 2
        inv = 1.0 / 1e6 ** (torch.arange(half, device=ids.device).float() / half)
        pos = positions(images, h, w, prefix, ids.shape[1]).to(ids.device).float()
        angles = pos[:, :, None] * inv  # [3, L, half]
        angles = torch.cat([a[i] for i, a in enumerate(angles.split(MROPE, -1))], -1)
        angles = torch.cat([angles, angles], -1)
        cos, sin = angles.cos().to(e.dtype), angles.sin().to(e.dtype)
        x = e
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return self.model.norm(x)

    def forward(self, ids, labels, patches, images, h, w, prefix):
        x = self.hidden(ids, patches, images, h, w, prefix)
        keep = labels[:, 1:] != -100
        logits = F.linear(x[:, :-1][keep], self.model.embed_tokens.weight.to(x.dtype))
        target = labels[:, 1:][keep]
        return F.cross_entropy(logits.float(), target), (logits.argmax(-1) == target).float().mean()


def save(model, tok, out, dtype=torch.bfloat16):
    from safetensors.torch import save_file
    os.makedirs(out, exist_ok=True)
    sd = {k: v.detach().to(dtype).contiguous().cpu() for k, v in model.state_dict().items()}
    parts = [{k: v for k, v in sd.items() if k.startswith("visual.")}, {k: v for k, v in sd.items() if not k.startswith("visual.")}]
    index = {}
    for i, part in enumerate(parts):
        name = f"model-{i + 1:05d}-of-00002.safetensors"
        save_file(part, os.path.join(out, name), metadata={"format": "pt"})
        index.update({k: name for k in part})
    total = sum(v.numel() * v.element_size() for v in sd.values())
    json.dump({"metadata": {"total_size": total}, "weight_map": index}, open(f"{out}/model.safetensors.index.json", "w"), indent=1)
    tok.save(f"{out}/tokenizer.json")
    sp = {t: tok.token_to_id(t) for t in SPECIAL}
    json.dump(dict(
        architectures=["Qwen2_5_VLForConditionalGeneration"], model_type="qwen2_5_vl", vocab_size=tok.get_vocab_size(), **TEXT,
        rms_norm_eps=EPS, rope_theta=1e6, rope_scaling={"type": "mrope", "mrope_section": MROPE}, max_position_embeddings=4096,
        hidden_act="silu", tie_word_embeddings=True, torch_dtype="bfloat16", bos_token_id=sp["<|endoftext|>"],
        eos_token_id=sp["<|im_end|>"], pad_token_id=sp["<|endoftext|>"], image_token_id=sp["<|image_pad|>"],
        video_token_id=sp["<|video_pad|>"], vision_start_token_id=sp["<|vision_start|>"], vision_end_token_id=sp["<|vision_end|>"],
        vision_token_id=sp["<|vision_pad|>"],
        vision_config=dict(model_type="qwen2_5_vl", **VISION, hidden_act="silu", in_channels=3, in_chans=3, out_hidden_size=TEXT["hidden_size"],
                           patch_size=PATCH, spatial_patch_size=PATCH, spatial_merge_size=MERGE, temporal_patch_size=2,
                           tokens_per_second=2, window_size=WINDOW)), open(f"{out}/config.json", "w"), indent=1)
    json.dump(dict(min_pixels=112 * 112, max_pixels=336 * 336, patch_size=PATCH, temporal_patch_size=2, merge_size=MERGE, image_mean=MEAN.tolist(),
                   image_std=STD.tolist(), image_processor_type="Qwen2VLImageProcessor", processor_class="Qwen2_5_VLProcessor"),
              open(f"{out}/preprocessor_config.json", "w"), indent=1)
    template = ("{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
                "{% endif %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}{% else %}"
                "{% for part in message['content'] %}{% if part['type'] == 'image' or 'image' in part %}<|vision_start|><|image_pad|><|vision_end|>"
                "{% elif part['type'] == 'video' or 'video' in part %}<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
                "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
    json.dump({"chat_template": template}, open(f"{out}/chat_template.json", "w"), indent=1)
    json.dump(dict(tokenizer_class="Qwen2Tokenizer", model_max_length=4096, bos_token=None, eos_token="<|im_end|>", pad_token="<|endoftext|>",
                   unk_token=None, add_prefix_space=False, clean_up_tokenization_spaces=False, errors="replace", split_special_tokens=False,
                   additional_special_tokens=SPECIAL[1:], chat_template=template,
                   added_tokens_decoder={str(i): dict(content=t, lstrip=False, normalized=False, rstrip=False, single_word=False, special=True)
                                         for t, i in sp.items()}), open(f"{out}/tokenizer_config.json", "w"), indent=1)
    json.dump(dict(eos_token_id=[sp["<|im_end|>"], sp["<|endoftext|>"]], pad_token_id=sp["<|endoftext|>"], do_sample=False),
              open(f"{out}/generation_config.json", "w"), indent=1)


class Muon:
    """Momentum whose matrices are made orthogonal by five Newton-Schulz steps, those of one shape together."""

    def __init__(self, matrices, momentum=0.95, decay=0.2):
        shapes = {}
        for p in matrices:
            shapes.setdefault(p.shape, []).append(p)
        self.groups = [(ps, torch.zeros(len(ps), *shape, device=ps[0].device)) for shape, ps in shapes.items()]
        self.momentum, self.decay = momentum, decay

    def state_dict(self):
        return [buffer for _, buffer in self.groups]

    def load_state_dict(self, buffers):
        for (_, own), buffer in zip(self.groups, buffers):
            own.copy_(buffer)

    @torch.no_grad()
    def step(self, lr):
        for ps, buffer in self.groups:
            g = torch.stack([torch.zeros_like(p) if p.grad is None else p.grad for p in ps])
            buffer.lerp_(g, 1 - self.momentum)
            x = g.lerp_(buffer, self.momentum).bfloat16()
            wide = x.shape[1] <= x.shape[2]
            x = x if wide else x.mT
            x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
            for _ in range(5):
                s = x @ x.mT
                x = 3.4445 * x + (-4.7750 * s + 2.0315 * s @ s) @ x
            x = x if wide else x.mT
            scale = lr * max(1.0, x.shape[1] / x.shape[2]) ** 0.5
            torch._foreach_mul_(ps, 1 - lr * self.decay)
            torch._foreach_add_(ps, list(x.float().unbind(0)), alpha=-scale)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("out"); p.add_argument("--minutes", type=float, default=8); p.add_argument("--batch", type=int, default=256)
    p.add_argument("--workers", type=int, default=15); p.add_argument("--lr", type=float, default=0.015); p.add_argument("--resume"); p.add_argument("--tokenizer")
    p.add_argument("--adam-lr", type=float, default=1e-3); p.add_argument("--seed", type=int, default=1); p.add_argument("--device", default="cuda")
    a = p.parse_args()
    torch.manual_seed(a.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cuda.enable_cudnn_sdp(False)
    from tokenizers import Tokenizer
    known = f"{a.resume}/tokenizer.json" if a.resume else a.tokenizer
    tok = Tokenizer.from_file(known) if known else train_tokenizer()
    model = TinyVL(tok.get_vocab_size()).to(a.device)
    if a.resume:
        from safetensors.torch import load_file
        sd = {}
        for f in glob.glob(f"{a.resume}/model-*.safetensors"):
            sd.update(load_file(f))
        model.load_state_dict({k: v.float() for k, v in sd.items()})
    print("parameters", sum(x.numel() for x in model.parameters()), "vocab", tok.get_vocab_size(), flush=True)
    loader = torch.utils.data.DataLoader(Batches(tok.to_str(), a.batch, a.seed), batch_size=None, num_workers=a.workers,
                                         prefetch_factor=6 if a.workers else None, pin_memory=a.device == "cuda")
    blocks = [x for n, x in model.named_parameters() if x.ndim == 2 and "embed" not in n]
    rest = [x for n, x in model.named_parameters() if x.ndim != 2 or "embed" in n]
    muon = Muon(blocks)
    adam = torch.optim.AdamW(rest, lr=a.adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=a.device == "cuda")
    mean, std = MEAN.to(a.device), STD.to(a.device)
    start, saved, waited, step, skipped = time.time(), time.time(), 0.0, 0, torch.zeros((), dtype=torch.int64, device=a.device)
    batches, skipped_before, lr = iter(loader), 0, a.lr
    trained = [model, muon, adam]
    good = copy.deepcopy([x.state_dict() for x in trained])
    while True:
        before = time.time()
        ids, labels, pixels, (images, h, w, prefix) = next(batches)
        waited += time.time() - before
        progress = (time.time() - start) / (a.minutes * 60)
        if progress >= 1:
            break
        share = min(1, (step + 1) / 300, (1 - progress) / 0.6)  # warming up, level, and down in a straight line
        adam.param_groups[0]["lr"] = a.adam_lr * share
        ids, labels = ids.to(a.device, non_blocking=True), labels.to(a.device, non_blocking=True)
        x = None
        if images:
            x = patchify(add_noise(pixels.to(a.device, non_blocking=True))).view(pixels.shape[0], -1, 3, PATCH * PATCH) / 255
            x = ((x - mean[:, None]) / std[:, None]).flatten(2).bfloat16()
        with torch.autocast(a.device, torch.bfloat16):
            loss, acc = model(ids, labels, x, images, h, w, prefix)
        model.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        finite = torch.isfinite(norm)  # looked at on the device, so that the host does not wait
        skipped += ~finite
        for x in model.parameters():
            if x.grad is not None:
                x.grad = torch.where(finite, x.grad, 0.0)
        muon.step(lr * share)
        adam.step()
        step += 1
        if step % 100 == 0:
            print(f"step {step} t {time.time() - start:.0f}s waited {waited:.0f}s loss {loss.item():.4f} acc {acc.item():.4f} norm {norm.item():.2f} images {images} share {share:.2f} skipped {skipped.item()}", flush=True)
        if time.time() - saved > 30:
            lost = skipped.item() - skipped_before
            if lost > 20:  # go back to where gradients were numbers, and on in smaller steps
                lr *= 0.7
                print(f"step {step} {lost} steps had gradients that are no numbers: back by half a minute, lr {lr:.4f}", flush=True)
                for x, state in zip(trained, good):
                    x.load_state_dict(copy.deepcopy(state))
            elif lost == 0:
                save(model, tok, a.out)
                good = copy.deepcopy([x.state_dict() for x in trained])
            saved, skipped_before = time.time(), skipped.item()
    model.eval()
    save(model, tok, a.out)
    print("saved", a.out, "steps", step, flush=True)


if __name__ == "__main__":
    main()

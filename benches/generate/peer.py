"""mlx-vlm's side of the comparison: prints the lines that worker.rs prints.

usage: peer.py FOLDER IMAGE TOKENS REQUESTS
"""

import json
import sys
import time

started = time.perf_counter()

import mlx.core as mx
from mlx_vlm import load, stream_generate
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.version import __version__

QUESTION = "Describe the image."


def resident_bytes():
    """Most resident memory of this process so far, as the kernel counts it."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except OSError:
        return None


def say(**line):
    print(json.dumps(line), flush=True)


folder, image, tokens, requests = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
imported = time.perf_counter()
model, processor = load(folder)
say(
    name=f"mlx-vlm {__version__}, MLX {mx.__version__}",
    device="gpu" if "gpu" in str(mx.default_device()) else "cpu",
    import_s=imported - started,
    load_s=time.perf_counter() - imported,
)
for _ in range(requests):
    asked = time.perf_counter()
    prompt = apply_chat_template(processor, model.config, QUESTION, num_images=1)
    first, last, text, result = None, None, "", None
    count = 0
    for result in stream_generate(
        model, processor, prompt, image=[image], max_tokens=tokens, temperature=0.0
    ):
        now = time.perf_counter()
        text += result.text
        if result.generation_tokens > count:
            count, last = result.generation_tokens, now
        if first is None:
            first = now
            say(first=True)
    say(
        prompt_tokens=result.prompt_tokens,
        tokens=count,
        first_s=first - asked,
        decode_tokens_per_s=(count - 1) / (last - first),
        peak_bytes=mx.get_peak_memory(),
        resident_bytes=resident_bytes(),
        text=text,
        own_prompt_tokens_per_s=result.prompt_tps,
        own_decode_tokens_per_s=result.generation_tps,
    )

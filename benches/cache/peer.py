"""mlx-vlm's side of the comparison: two questions about one image, and the lines that worker.rs prints.

usage: peer.py MODE FOLDER IMAGE ROUNDS, where MODE is generate, prompt-cache or server
"""

import json
import resource
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

mode, folder, image, rounds = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
QUESTIONS = ["Describe this image.", "What color is the circle?"]
TOKENS = 16


def say(**line):
    print(json.dumps(line), flush=True)


def converse(ask):
    """Asks both questions, the second with the first answer before it."""
    for _ in range(rounds):
        state, messages = ask.fresh(), []
        for turn, question in enumerate(QUESTIONS):
            messages.append({"role": "user", "content": question})
            first, text, prompt, cached = ask(state, messages)
            messages.append({"role": "assistant", "content": text})
            say(turn=turn + 1, first_s=first, text=text, prompt_tokens=prompt, cached_tokens=cached)


class InProcess:
    def __init__(self, keep):
        from mlx_vlm import load
        from mlx_vlm.version import __version__

        self.keep = keep
        self.model, self.processor = load(folder)
        say(name=f"mlx-vlm {__version__}, {'prompt cache' if keep else 'generate'}")

    def fresh(self):
        from mlx_vlm.generate import PromptCacheState

        return PromptCacheState() if self.keep else None

    def __call__(self, state, messages):
        from mlx_vlm import stream_generate

        asked = time.perf_counter()
        # Its own apply_chat_template moves the image to the last question, where no prefix is left.
        text = {"type": "text", "text": messages[0]["content"]}
        messages = [{"role": "user", "content": [{"type": "image"}, text]}, *messages[1:]]
        prompt = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        options = {"prompt_cache_state": state} if self.keep else {}
        first, text, result = None, "", None
        for result in stream_generate(
            self.model, self.processor, prompt, image=[image], max_tokens=TOKENS, temperature=0.0, **options
        ):
            first = first or time.perf_counter() - asked
            text += result.text
        return first, text, result.prompt_tokens, None


class Server:
    def __init__(self):
        from mlx_vlm.version import __version__

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "mlx_vlm.server", "--host", "127.0.0.1", "--port", str(self.port)]
        self.process = subprocess.Popen([*command, "--model", folder], stdout=sys.stderr)
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).read()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        say(name=f"mlx-vlm {__version__}, server")

    def fresh(self):
        return None

    def __call__(self, state, messages):
        first = messages[0]
        parts = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": first["content"]}]
        body = {
            "model": folder,
            "messages": [{"role": "user", "content": parts}, *messages[1:]],
            "max_tokens": TOKENS,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/chat/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        asked = time.perf_counter()
        first, text, usage = None, "", {}
        for line in urllib.request.urlopen(request, timeout=3600):
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            for choice in chunk.get("choices", []):
                piece = (choice.get("delta") or {}).get("content") or ""
                if piece and first is None:
                    first = time.perf_counter() - asked
                text += piece
            usage = chunk.get("usage") or usage
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        return first, text, usage.get("prompt_tokens") or usage.get("input_tokens"), cached


side = Server() if mode == "server" else InProcess(mode == "prompt-cache")
try:
    converse(side)
    if mode == "server":
        with open(f"/proc/{side.process.pid}/status") as status:
            peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    say(peak_bytes=peak)
finally:
    if mode == "server":
        side.process.terminate()
        side.process.wait()

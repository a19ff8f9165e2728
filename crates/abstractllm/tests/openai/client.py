"""The official client of OpenAI against `abstractllm serve` on tiny-vl.

usage: client.py OPEN_URL KEYED_URL KEY TOOLS_URL SCENES

OPEN_URL needs no key and fetches images from anywhere; KEYED_URL needs KEY, takes bodies of at most
100 kB, and fetches images from public addresses only; TOOLS_URL has tiny-vl with a template that knows
tools. SCENES is testdata/scenes, whose answers are those of mlx-vlm.
"""

import asyncio
import base64
import functools
import http.server
import json
import sys
import threading
import time
import unittest
import urllib.request
from pathlib import Path

import openai

OPEN_URL, KEYED_URL, KEY, TOOLS_URL, SCENES = sys.argv[1:6]
MODEL = "tiny-vl"
CASES = json.loads((Path(SCENES) / "expected.json").read_text())["cases"]


def client(url=OPEN_URL, key="none", **options):
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=120, **options)


def case(name):
    return next(case for case in CASES if case["name"] == name)


def data_url(name):
    encoded = base64.b64encode((Path(SCENES) / name).read_bytes()).decode()
    return f"data:image/png;base64,{encoded}"


def messages(case, url=data_url):
    """The messages of a case, whose images are at `url(name)`."""
    content = [{"type": "image_url", "image_url": {"url": url(name)}} for name in case["images"]]
    content.append({"type": "text", "text": case["prompt"]})
    system = [{"role": "system", "content": case["system"]}] if case["system"] else []
    return system + [{"role": "user", "content": content}]


def metric(name):
    with urllib.request.urlopen(OPEN_URL.removesuffix("/v1") + "/metrics") as reply:
        lines = reply.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name + " "))


class Chat(unittest.TestCase):
    def test_models(self):
        names = [model.id for model in client().models.list()]
        self.assertEqual(names, [MODEL, "gpt-4o"])
        self.assertEqual(client().models.retrieve(MODEL).owned_by, "mlx")

    def test_chat(self):
        wanted = case("31-text")
        answer = client().chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": wanted["prompt"]}]
        )
        self.assertEqual(answer.choices[0].message.content, wanted["full"]["text"])
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        self.assertEqual(answer.model, MODEL)
        tokens = len(wanted["full"]["token_ids"]) + 1
        self.assertEqual(answer.usage.completion_tokens, tokens)
        self.assertEqual(answer.usage.prompt_tokens, len(wanted["prompt_token_ids"]))
        self.assertEqual(answer.usage.total_tokens, tokens + answer.usage.prompt_tokens)

    def test_an_alias(self):
        answer = client().chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "Hello"}]
        )
        self.assertEqual(answer.model, "gpt-4o")

    def test_streaming(self):
        wanted = case("32-text")
        stream = client().chat.completions.create(
            model=MODEL,
            messages=messages(wanted),
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
        pieces = [c.choices[0].delta.content for c in chunks if c.choices]
        self.assertEqual("".join(piece or "" for piece in pieces), wanted["full"]["text"])
        self.assertGreater(len(pieces), 10)
        self.assertEqual(chunks[-2].choices[0].finish_reason, "stop")
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage.completion_tokens, len(wanted["full"]["token_ids"]) + 1)

    def test_parameters(self):
        wanted = case("31-text")["full"]["text"]
        ask = lambda **more: client().chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hello"}], **more
        )
        cut = ask(max_tokens=5)
        self.assertEqual(cut.choices[0].finish_reason, "length")
        self.assertTrue(wanted.startswith(cut.choices[0].message.content))
        self.assertEqual(cut.usage.completion_tokens, 5)
        stopped = ask(stop=["Show", "image"]).choices[0]
        self.assertEqual((stopped.message.content, stopped.finish_reason), ("Hello! ", "stop"))
        hot = lambda seed: ask(temperature=2, top_p=0.99, seed=seed, max_completion_tokens=40,
                               extra_body={"top_k": 300, "min_p": 0.0001})
        texts = [hot(seed).choices[0].message.content for seed in (1, 1, 2, 3)]
        self.assertEqual(texts[0], texts[1])
        self.assertGreater(len(set(texts)), 1)

    def test_a_conversation(self):
        wanted = case("01-describe")
        turns = messages(wanted)
        first = client().chat.completions.create(model=MODEL, messages=turns)
        turns.append(first.choices[0].message)
        turns.append({"role": "user", "content": "What color is the background?"})
        second = client().chat.completions.create(model=MODEL, messages=turns)
        self.assertIn("yellow", second.choices[0].message.content)
        # The picture and the first turn were read already.
        self.assertGreater(second.usage.prompt_tokens_details.cached_tokens, 64)

    def test_images_by_data_url(self):
        for name in ("01-describe", "20-compare", "27-three", "28-system"):
            wanted = case(name)
            answer = client().chat.completions.create(model=MODEL, messages=messages(wanted))
            self.assertEqual(answer.choices[0].message.content, wanted["full"]["text"], name)


class Pictures(http.server.SimpleHTTPRequestHandler):
    """The folder of the scenes, as another server has it."""

    asked = []

    def do_GET(self):
        self.asked.append(self.path)
        if self.path == "/moved.png":
            self.send_response(302)
            self.send_header("Location", "/" + case("01-describe")["images"][0])
            return self.end_headers()
        super().do_GET()

    def log_message(self, *_):
        pass


class Addresses(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        handler = functools.partial(Pictures, directory=SCENES)
        cls.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        cls.url = f"http://127.0.0.1:{cls.server.server_port}"
        threading.Thread(target=cls.server.serve_forever, daemon=True).start()

    @classmethod
    def tearDownClass(cls):
        cls.server.shutdown()
        cls.server.server_close()

    def setUp(self):
        Pictures.asked.clear()

    def fails(self, image, says, *server):
        with self.assertRaises(openai.BadRequestError) as caught:
            client(*server).chat.completions.create(
                model=MODEL, messages=messages(case("01-describe"), lambda _: image)
            )
        self.assertIn(says, caught.exception.message)
        self.assertEqual(caught.exception.param, "messages[0].content[0].image_url")

    def test_images_by_url(self):
        for name in ("01-describe", "20-compare"):
            wanted = case(name)
            answer = client().chat.completions.create(
                model=MODEL, messages=messages(wanted, lambda image: f"{self.url}/{image}")
            )
            self.assertEqual(answer.choices[0].message.content, wanted["full"]["text"], name)
        self.assertEqual(len(Pictures.asked), 3)

    def test_a_redirect(self):
        wanted = case("01-describe")
        answer = client().chat.completions.create(
            model=MODEL, messages=messages(wanted, lambda _: self.url + "/moved.png")
        )
        self.assertEqual(answer.choices[0].message.content, wanted["full"]["text"])

    def test_what_is_no_image(self):
        self.fails(self.url + "/no-such.png", "404")
        self.fails(self.url + "/expected.json", "expected an image")
        self.fails("file:///etc/passwd", "begins with http:// or https://")

    def test_private_addresses(self):
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433"):
            url = f"http://{host}:{self.server.server_port}/expected.json"
            self.fails(url, "not allowed", KEYED_URL, KEY)
        self.fails("http://169.254.169.254/latest/meta-data", "not allowed", KEYED_URL, KEY)
        self.assertEqual(Pictures.asked, [])


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"enum": ["Oslo", "Rome"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}

COLOURS = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green", "blue"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["colour", "count"],
    "additionalProperties": False,
}


TOOLS_MODEL = client(TOOLS_URL).models.list().data[0]


class Tools(unittest.TestCase):
    # Greedily, a model that was not trained on calls would make them without end.
    ask = {"model": TOOLS_MODEL.id, "tools": [WEATHER], "max_tokens": 1000, "temperature": 1.5, "seed": 3}
    turns = [{"role": "user", "content": "What is the weather in Oslo?"}]

    def check(self, name, arguments):
        self.assertEqual(name, "weather")
        read = json.loads(arguments)
        self.assertEqual(set(read), {"city", "days"})
        self.assertIn(read["city"], ["Oslo", "Rome"])
        self.assertIn(read["days"], range(1, 8))

    def test_a_call_and_its_result(self):
        for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
            answer = client(TOOLS_URL).chat.completions.create(
                messages=self.turns, tool_choice=choice, **self.ask
            )
            self.assertEqual(answer.choices[0].finish_reason, "tool_calls")
            calls = answer.choices[0].message.tool_calls
            self.assertGreaterEqual(len(calls), 1)
            for call in calls:
                self.check(call.function.name, call.function.arguments)
        results = [{"role": "tool", "tool_call_id": c.id, "content": "3 degrees"} for c in calls]
        turns = [*self.turns, answer.choices[0].message, *results]
        after = client(TOOLS_URL).chat.completions.create(messages=turns, tool_choice="none", **self.ask)
        self.assertIn(after.choices[0].finish_reason, ("stop", "length"))
        self.assertIsNone(after.choices[0].message.tool_calls)

    def test_a_call_in_a_stream(self):
        stream = client(TOOLS_URL).chat.completions.create(
            messages=self.turns, tool_choice="required", stream=True, **self.ask
        )
        ids, names, arguments, reason = {}, {}, {}, None
        for chunk in stream:
            choice = chunk.choices[0]
            reason = choice.finish_reason or reason
            for delta in choice.delta.tool_calls or []:
                i = delta.index
                ids[i] = delta.id or ids.get(i)
                names[i] = delta.function.name or names.get(i)
                arguments[i] = arguments.get(i, "") + (delta.function.arguments or "")
        self.assertEqual(reason, "tool_calls")
        self.assertEqual(list(ids), list(range(len(ids))))
        self.assertTrue(all(ids.values()))
        for i in ids:
            self.check(names[i], arguments[i])


class Forms(unittest.TestCase):
    def test_json_schema(self):
        schema = {"name": "colours", "strict": True, "schema": COLOURS}
        form = {"type": "json_schema", "json_schema": schema}
        for stream in (False, True):
            with self.subTest(stream=stream):
                self.one_document(form, stream)

    def one_document(self, form, stream):
        wanted = case("01-describe")
        answer = client().chat.completions.create(
            model=MODEL, messages=messages(wanted), response_format=form, stream=stream
        )
        if stream:
            text = "".join(c.choices[0].delta.content or "" for c in answer if c.choices)
        else:
            self.assertEqual(answer.choices[0].finish_reason, "stop")
            text = answer.choices[0].message.content
        read = json.loads(text)
        self.assertEqual(set(read), {"colour", "count"})
        self.assertIn(read["colour"], ["red", "green", "blue"])
        self.assertIn(read["count"], range(10))

    def test_json_object(self):
        answer = client().chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Say something in JSON."}],
            response_format={"type": "json_object"},
            max_tokens=500,
        )
        choice = answer.choices[0]
        if choice.finish_reason == "stop":
            json.loads(choice.message.content)


class Refusals(unittest.TestCase):
    def test_a_wrong_key(self):
        with self.assertRaises(openai.AuthenticationError) as caught:
            client(KEYED_URL, "wrong").models.list()
        self.assertEqual(caught.exception.code, "invalid_api_key")
        self.assertEqual([m.id for m in client(KEYED_URL, KEY).models.list()], [MODEL])

    def test_an_oversized_body(self):
        with self.assertRaises(openai.APIStatusError) as caught:
            client(KEYED_URL, KEY).chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "x" * 120_000}]
            )
        self.assertEqual(caught.exception.status_code, 413)
        self.assertEqual(caught.exception.code, "body_too_large")
        # The server goes on.
        client(KEYED_URL, KEY).chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hello"}]
        )

    def test_mistakes(self):
        def fails(kind, says, **changed):
            asked = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
            with self.assertRaises(kind) as caught:
                client().chat.completions.create(**(asked | changed))
            self.assertIn(says, caught.exception.message)
            return caught.exception

        fails(openai.NotFoundError, "there is no model `gpt-3`", model="gpt-3")
        self.assertEqual(fails(openai.BadRequestError, "only 1", n=2).param, "n")
        fails(openai.BadRequestError, "did you mean `temperature`", extra_body={"temprature": 1})
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        broken = [{"role": "user", "content": [image]}]
        found = fails(openai.BadRequestError, "image", messages=broken)
        self.assertEqual(found.code, "invalid_image")
        long = [{"role": "user", "content": "word " * 20_000}]
        found = fails(openai.BadRequestError, "", messages=long)
        self.assertEqual(found.code, "context_length_exceeded")
        # Found out by the model's own thread, and before anything was streamed.
        fails(openai.BadRequestError, "", messages=long, stream=True)


class Load(unittest.TestCase):
    def test_a_cancelled_stream(self):
        before = metric("llm_server_cancelled_total")
        # Asked what it cannot know and rewarded for repeating itself, tiny-vl never ends.
        stream = client().chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            frequency_penalty=-2,
            max_tokens=4000,
            stream=True,
        )
        for _, _ in zip(range(5), stream):
            pass
        self.assertEqual(metric("llm_server_running"), 1)
        stream.close()
        asked = time.monotonic()
        while metric("llm_server_running") > 0:
            self.assertLess(time.monotonic() - asked, 5, "the answer went on")
            time.sleep(0.02)
        self.assertEqual(metric("llm_server_cancelled_total"), before + 1)

    def test_32_clients_at_once(self):
        wanted = (CASES * 2)[:32]

        async def one(case):
            async with openai.AsyncOpenAI(
                base_url=OPEN_URL, api_key="none", max_retries=0, timeout=300
            ) as own:
                if CASES.index(case) % 2:
                    answer = await own.chat.completions.create(model=MODEL, messages=messages(case))
                    return answer.choices[0].message.content
                text = ""
                stream = await own.chat.completions.create(
                    model=MODEL, messages=messages(case), stream=True
                )
                async for chunk in stream:
                    text += chunk.choices[0].delta.content or ""
                return text

        async def all_of_them():
            return await asyncio.gather(*(one(case) for case in wanted))

        for text, case in zip(asyncio.run(all_of_them()), wanted):
            self.assertEqual(text, case["full"]["text"], case["name"])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)

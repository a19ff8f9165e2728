"""Writes testdata/chat/tools.json: conversations with tools, and what transformers makes of them.

    pip install -r tools/golden/chat/requirements.txt
    python tools/golden/chat/tools.py

The template, testdata/chat/hermes.jinja, is written for this project; tools, calls and results are in it as in
the published ones of Hermes and Qwen. `crates/mlx-backend/src/chat/tests.rs` renders the same and compares every
byte; messages are in the form in which llm-core stores them.
"""

import json
import pathlib

from transformers.utils.chat_template_utils import render_jinja_template

CHAT = pathlib.Path(__file__).resolve().parents[3] / "testdata/chat"

WEATHER = {
    "name": "get_weather",
    "description": "Tells the \"weather\" in a city, in °C.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "default": 1.5}},
        "required": ["city"],
    },
}
CLOCK = {"name": "get_time", "description": "", "parameters": {"type": "object", "properties": {}}}


def call(id, name, arguments):
    return {"tool_call": {"id": id, "name": name, "arguments": arguments}}


def result(id, content):
    return {"tool_result": {"call_id": id, "content": content, "is_error": False}}


def turn(role, *parts):
    return {"role": role, "parts": [{"text": part} if isinstance(part, str) else part for part in parts]}


ASKED = turn("user", "How is it in Rome & <Oslo>?")
TWO_CALLS = turn("assistant", call("a", "get_weather", {"city": "Rome", "days": 2}), call("b", "get_time", {}))
TWO_RESULTS = turn("tool", result("b", "noon"), result("a", '{"sky": "clear"}'))
CONVERSATIONS = {
    "asked": [ASKED],
    "system": [turn("system", "Be brief."), ASKED],
    "called": [ASKED, TWO_CALLS, TWO_RESULTS],
    "text_and_call": [ASKED, turn("assistant", "I look.", call("a", "get_time", {"a": [1, None, "é\n"]})), turn("tool", result("a", ""))],
    "answered": [ASKED, TWO_CALLS, TWO_RESULTS, turn("assistant", "Fine."), turn("user", "And now?")],
}


def template_messages(conversation):
    """What crates/mlx-backend/src/chat.rs hands to a template."""
    messages, names = [], {}
    for message in conversation:
        if message["role"] == "tool":
            for part in message["parts"]:
                found = part["tool_result"]
                messages.append({
                    "role": "tool",
                    "name": names[found["call_id"]],
                    "tool_call_id": found["call_id"],
                    "content": found["content"],
                })
            continue
        content = "".join(part.get("text", "") for part in message["parts"])
        calls = [part["tool_call"] for part in message["parts"] if "tool_call" in part]
        names.update((one["id"], one["name"]) for one in calls)
        as_functions = [
            {"type": "function", "id": one["id"], "function": {"name": one["name"], "arguments": one["arguments"]}}
            for one in calls
        ]
        extra = {"tool_calls": as_functions} if calls else {}
        messages.append({"role": message["role"], "content": content, **extra})
    return messages


def main():
    template = (CHAT / "hermes.jinja").read_text()
    cases = []
    for name, conversation in CONVERSATIONS.items():
        for tools in ([], [WEATHER, CLOCK]):
            prompts, _ = render_jinja_template(
                conversations=[template_messages(conversation)],
                tools=[{"type": "function", "function": tool} for tool in tools] or None,
                chat_template=template,
                add_generation_prompt=True,
            )
            cases.append({"name": name, "messages": conversation, "tools": tools, "prompt": prompts[0]})
    (CHAT / "tools.json").write_text(json.dumps({"cases": cases}, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(cases)} cases")


if __name__ == "__main__":
    main()

"""Writes testdata/chat/cases.json: chat templates, conversations, and what transformers makes of them.

    pip install -r tools/golden/chat/requirements.txt
    python tools/golden/chat/make.py

The templates are written for this project. Each exercises what published ones do: those of the Qwen2.5-VL,
Idefics, Llama, Mistral, Gemma and Qwen families differ in how they treat roles, white space, lists and Python's
string methods. `crates/mlx-backend/src/chat/tests.rs` renders the same conversations and compares every byte.
"""

import json
import pathlib

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

ROOT = pathlib.Path(__file__).resolve().parents[3]

TEMPLATES = {
    # Counters in namespaces; three ways to name an image; vision ids that nobody asked for.
    "vision_counters": (
        "{% set images = namespace(value=0) %}{% set videos = namespace(value=0) %}"
        "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
        "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
        "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
        "{% set images.value = images.value + 1 %}"
        "{% if add_vision_id %}Picture {{ images.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>"
        "{% elif part['type'] == 'video' or 'video' in part %}{% set videos.value = videos.value + 1 %}<|video_pad|>"
        "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
        "{{ '[%d/%d]' % (images.value, videos.value) if add_vision_id else '' }}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    # Only reads lists; a Python method and a filter on the role; white space by hand.
    "list_only": (
        "<|im_start|>{% for message in messages %}{{ message['role'].capitalize() }}"
        "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
        "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] | trim }}"
        "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
        "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    ),
    # Blocks on lines of their own, trimmed by the settings of the environment and by hand.
    "white_space": """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'].strip() + '\\n\\n' %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = '' %}
{%- endif %}
  {# a comment on its own line #}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {% endif %}
    {% if message['role'] == 'user' %}
  [INST] {{ (system_message if loop.first else '') ~ message['content'] | trim }} [/INST]
    {%- elif message['role'] == 'assistant' -%}
        {{ ' ' + message['content'] | trim + ' ' + eos_token }}
    {%+ endif %}
{% endfor %}
{{ pad_token }}|{{ unk_token }}
""",
    # A macro with a default, nested lists, `is` tests, roles renamed, `none` and numbers printed.
    "macros": (
        "{{ bos_token }}{% macro show(content, lead='') %}{% if content is string %}{{ lead + content | trim }}"
        "{% elif content is iterable and content is not mapping %}{% for item in content %}"
        "{% if item['type'] == 'image' %}{{ '<start_of_image>' }}{% elif item['type'] == 'text' %}"
        "{{ item['text'] | trim }}{% endif %}{% endfor %}{% else %}{{ raise_exception('bad content') }}{% endif %}"
        "{% endmacro %}{% if messages[0]['role'] == 'system' %}"
        "{% if messages[0]['content'] is string %}{% set first = messages[0]['content'] + '\n\n' %}"
        "{% else %}{% set first = messages[0]['content'][0]['text'] + '\n\n' %}{% endif %}"
        "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
        "{% for message in rest %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
        "<start_of_turn>{{ role }}\n{{ first if loop.first }}{{ show(message['content']) }}<end_of_turn>\n"
        "{% endfor %}{{ tools }} {{ tools is none }} {{ undefined_name }} {{ 1.0 }} {{ 10 / 4 }} {{ 7 // 2 }} "
        "{{ 2 ** 3 }} {{ true and messages | length > 1 }} {{ [1, 'a', none, true] }} {{ {'k': \"it's\"} }}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    # JSON as Python writes it, sorted, indented and compact; loops backwards, broken off and continued.
    "json_and_loops": (
        "{%- set spec = {'name': 'f', 'size': [1, 2.5, none, true], 'text': 'a\"b\\\\c\\né<>&', 'empty': {}, 'a': []} %}"
        "{{ spec | tojson }}\n{{ spec | tojson(indent=2) }}\n{{ spec | tojson(sort_keys=true, ensure_ascii=true) }}\n"
        "{{ spec | tojson(separators=(',', ':')) }}\n{{ messages[0] | tojson }}\n"
        "{% for m in messages[::-1] %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{% set i = (messages | length - 1) - loop.index0 %}{{ i }}:{{ m.role }};"
        "{% if m.role == 'user' and not m.content is mapping %}{% break %}{% endif %}{% endfor %}\n"
        "{% for k, v in spec.items() %}{{ k }}={{ v is sequence }}{{ v is iterable }}{{ ',' if not loop.last }}{% endfor %}\n"
        "{{ messages | map(attribute='role') | join('+') }} "
        "{{ messages | selectattr('role', 'equalto', 'user') | list | length }} "
        "{{ messages[-1].role }} {{ 'x' in spec }} {{ spec.get('none', 'default') }} {{ spec.name is defined }} "
        "{{ nothing is iterable }} {{ 1 is iterable }} {{ nothing is not none }}"
    ),
    # Python's string methods, as templates of thinking models use them.
    "string_methods": (
        "{% for message in messages %}{% if message.content is string %}{% set content = message.content %}"
        "{% else %}{% set content = '' %}{% endif %}{% set reasoning = '' %}"
        "{% if '</think>' in content %}"
        "{% set reasoning = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
        "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
        "{% generation %}<{{ message.role.upper() }}>{{ reasoning.strip() }}|{{ content.replace('a', 'A').title() }}"
        "{% endgeneration %}{{ content.startswith('h') }}{{ content.endswith(('o', '?')) }}{{ content.find('l') }}"
        "{{ ' '.join(content.split()) }}{{ content[:2] }}{{ content[-1:] }}{{ content | length }}"
        "{{ '%s-%05.1f' | format('x', 2.25) }}{{ content.splitlines() }}\n{% endfor %}"
    ),
}


def image():
    return {"image": True}


CONVERSATIONS = {
    "hello": [["user", "hello"]],
    "system": [["system", " Be brief. "], ["user", "  hello there?\n"]],
    "turns": [["user", "hi"], ["assistant", "<think>\nhm a\n</think>\n\nhello\nyou"], ["user", "what's \"that\"? é"]],
    "image": [["user", image(), "what is it?"]],
    "text_before_image": [["system", "s"], ["user", "first: ", image(), "second: ", image()]],
    "wrong_order": [["user", "a"], ["user", "b"]],
}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


# Has no notion of images: whoever sends one gets an error for the missing placeholder, not this prompt.
TEXT_ONLY = {"white_space"}


def template_messages(conversation, list_only):
    """What crates/mlx-backend/src/chat.rs hands to a template: images first, plain text without images."""
    messages = []
    for role, *parts in conversation:
        images = [{"type": "image"} for part in parts if not isinstance(part, str)]
        text = "".join(part for part in parts if isinstance(part, str))
        content = [*images, {"type": "text", "text": text}] if images or list_only else text
        messages.append({"role": role, "content": content})
    return messages


def main():
    cases = []
    for template_name, template in TEMPLATES.items():
        for conversation_name, conversation in CONVERSATIONS.items():
            if template_name in TEXT_ONLY and any(not isinstance(part, str) for turn in conversation for part in turn):
                continue
            for add_generation_prompt in (True, False):
                case = {
                    "template": template_name,
                    "conversation": conversation_name,
                    "add_generation_prompt": add_generation_prompt,
                }
                try:
                    prompts, _ = render_jinja_template(
                        conversations=[template_messages(conversation, template_name == "list_only")],
                        chat_template=template,
                        add_generation_prompt=add_generation_prompt,
                        **TOKENS,
                    )
                    case["prompt"] = prompts[0]
                except jinja2.exceptions.TemplateError as error:
                    case["refused"] = str(error)
                cases.append(case)
    out = ROOT / "testdata/chat/cases.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    content = {"templates": TEMPLATES, "conversations": CONVERSATIONS, "tokens": TOKENS, "cases": cases}
    out.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(cases)} cases, {sum('prompt' in c for c in cases)} of them prompts")


if __name__ == "__main__":
    main()

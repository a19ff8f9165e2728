"""What mlx-vlm computes on a checkpoint, for the test `parity` of mlx-backend.

usage: parity.py FOLDER IMAGE TOKENS OUT

Writes to OUT (safetensors) the prompt, the pixel values, the greedy tokens in f32, and the logits of the
prompt's last token and of every token but the last: in f32, and in the checkpoint's own type when it is
asked the same tokens. MLX_ENABLE_TF32=0 keeps a GPU from rounding the factors of f32 products.
"""

import sys

import mlx.core as mx
from mlx.utils import tree_map
from mlx_vlm import load
from mlx_vlm.models import cache
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.utils import prepare_inputs

QUESTION = "Describe the image."


def logits(model, inputs, tokens, count):
    """Greedy, or along `tokens`; returns tokens and their logits `[count, V]`."""
    grid = inputs["image_grid_thw"]
    found = model.get_input_embeddings(
        inputs["input_ids"], inputs["pixel_values"], image_grid_thw=grid
    )
    kwargs = {k: v for k, v in found.to_dict().items() if k != "inputs_embeds" and v is not None}
    memory = cache.make_prompt_cache(model.language_model)
    out = model.language_model(
        inputs["input_ids"],
        inputs_embeds=found.inputs_embeds,
        cache=memory,
        image_grid_thw=grid,
        **kwargs,
    )
    rows, chosen = [out.logits[:, -1, :].astype(mx.float32)], []
    while True:
        mx.eval(rows[-1])
        chosen.append(tokens[len(chosen)] if tokens else mx.argmax(rows[-1], axis=-1).item())
        if len(chosen) == count:
            return chosen, mx.concatenate(rows, axis=0)
        step = mx.array([[chosen[-1]]])
        rows.append(model.language_model(step, cache=memory).logits[:, -1, :].astype(mx.float32))


folder, image, count, out = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
model, processor = load(folder)
prompt = apply_chat_template(processor, model.config, QUESTION, num_images=1)
inputs = prepare_inputs(processor, images=[image], prompts=prompt)
own = {"weights": model.parameters()}


def to_f32(weight):
    return weight.astype(mx.float32) if mx.issubdtype(weight.dtype, mx.floating) else weight


model.update(tree_map(to_f32, own["weights"]))
tokens, exact = logits(model, inputs, None, count)
model.update(own["weights"])
_, rounded = logits(model, inputs, tokens, count)
mx.save_safetensors(
    out,
    {
        "input_ids": inputs["input_ids"],
        "pixel_values": inputs["pixel_values"].astype(mx.float32),
        "image_grid_thw": inputs["image_grid_thw"],
        "tokens": mx.array(tokens),
        "logits_f32": exact,
        "logits_own": rounded,
    },
)
print(f"{count} tokens of a prompt of {inputs['input_ids'].size}: {tokens}")

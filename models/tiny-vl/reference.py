"""Greedy answers of the reference engine, mlx-vlm, with weights and activations in float32.

The weights of the checkpoint are read as they are and cast to float32 once; a quantised checkpoint keeps its
packed integers and casts the scales and biases, so that rounding of bf16 activations plays no part.
"""
import mlx.core as mx
from mlx_vlm.generate.ar import generate_step
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.utils import load, load_image, prepare_inputs


class Reference:
    def __init__(self, checkpoint):
        self.model, self.processor = load(str(checkpoint))
        self.model.set_dtype(mx.float32)
        mx.eval(self.model.parameters())
        config = self.model.config
        ends = config.eos_token_id
        self.stop_ids = sorted(ends if isinstance(ends, list) else [ends])
        self.tokenizer = self.processor.tokenizer

    def render(self, prompt, images, system=None):
        """The prompt as the checkpoint's chat template writes it, one placeholder per image, images first."""
        messages = [{"role": "user", "content": prompt}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        return apply_chat_template(self.processor, self.model.config, messages, num_images=images)

    def answer(self, prompt, images=(), system=None, max_tokens=256, **options):
        """Greedy tokens up to a stop token, which is not among them, with the smallest gap between the best two logits.

        `options` are those of mlx-vlm's `generate_step`, such as `kv_bits`."""
        rendered = self.render(prompt, len(images), system)
        inputs = prepare_inputs(self.processor, images=[load_image(str(path)) for path in images] or None, prompts=rendered)
        ids, grid = inputs["input_ids"], inputs.get("image_grid_thw")
        extra = {} if grid is None else {"image_grid_thw": grid}
        language = self.model.language_model
        language._position_ids = language._rope_deltas = None  # the model keeps these from one prompt to the next
        tokens, gaps, stop = [], [], None
        steps = generate_step(ids, self.model, inputs.get("pixel_values"), None, max_tokens=max_tokens, temperature=0.0, **extra, **options)
        for token, logprobs in steps:
            assert logprobs.dtype == mx.float32
            second, best = mx.topk(logprobs, 2).tolist()
            gaps.append(abs(best - second))
            if token in self.stop_ids:
                stop = token
                break
            tokens.append(token)
        steps.close()
        return {
            "rendered": rendered,
            "image_grid_thw": [] if grid is None else grid.tolist(),
            "prompt_token_ids": ids[0].tolist(),
            "token_ids": tokens,
            "stop_token_id": stop,
            "text": self.tokenizer.decode(tokens),
            "min_gap": min(gaps),
        }

    def forced_tokens(self, prompt_ids, token_ids, images):
        """What one uncached forward pass over prompt and answer predicts at each step: a check on the cached loop."""
        inputs = {}
        if images:
            inputs = prepare_inputs(self.processor, images=[load_image(str(path)) for path in images],
                                    prompts="<|vision_start|><|image_pad|><|vision_end|>" * len(images))
        ids = mx.array([prompt_ids + token_ids])
        extra = {"image_grid_thw": inputs["image_grid_thw"]} if images else {}
        language = self.model.language_model
        language._position_ids = language._rope_deltas = None
        features = self.model.get_input_embeddings(ids, inputs.get("pixel_values"), **extra)
        logits = language(ids, features.inputs_embeds, position_ids=features.position_ids, rope_deltas=features.rope_deltas).logits
        return mx.argmax(logits[0, len(prompt_ids) - 1 :], axis=-1).tolist()

"""Tiny random models of many families, with real tokenizers and processors, built without a network."""

from __future__ import annotations

import io
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from PIL import Image as Pillow
from transformers import (
    CLIPVisionConfig,
    GPT2Config,
    LlamaConfig,
    LlavaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from transformers import models as families

from adaptinf.data import Image, Message, Sample
from adaptinf.models import wrap
from tests import tiny_tokenizers

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}IMAGE{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAVA = (
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'] | upper }}: {% endif %}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}<image>\n{% else %}{{ p['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
IDEFICS = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}:"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}<image>{% else %} {{ p['text'] }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
WORDS = "what colour is the big red square blue green yes no circle question answer user assistant one two three"
TEXT_FAMILIES = ("llama", "gpt2", "qwen2", "gemma2", "opt")
IMAGE_FAMILIES = ("llava", "qwen2_5_vl", "idefics3", "smolvlm")
CONTEXT = 512


def make_tokenizer(special: list[str], **more: str) -> PreTrainedTokenizerFast:
    return tiny_tokenizers.trained([WORDS] * 3, 360, special, **more)


def text_config(kind: type, vocabulary: int, **more):
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.3,
    }
    return kind(vocab_size=vocabulary, **(sizes | more))


def _llama():
    tokenizer = make_tokenizer(["<s>", "</s>"], bos_token="<s>", eos_token="</s>")
    return families.llama.LlamaForCausalLM, text_config(LlamaConfig, len(tokenizer)), tokenizer


def _qwen2():
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = make_tokenizer(special, template=CHATML, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    return families.qwen2.Qwen2ForCausalLM, text_config(Qwen2Config, len(tokenizer)), tokenizer


def _gpt2():
    tokenizer = make_tokenizer(["<|endoftext|>"], bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=3, n_head=4, n_positions=CONTEXT)
    return families.gpt2.GPT2LMHeadModel, config, tokenizer


def _gemma2():
    tokenizer = make_tokenizer(["<s>", "</s>"], bos_token="<s>", eos_token="</s>")
    config = text_config(families.gemma2.Gemma2Config, len(tokenizer), final_logit_softcapping=5.0)
    return families.gemma2.Gemma2ForCausalLM, config, tokenizer


def _opt():
    tokenizer = make_tokenizer(["<s>", "</s>"], bos_token="<s>", eos_token="</s>")
    config = families.opt.OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        word_embed_proj_dim=16,
        ffn_dim=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
    )
    return families.opt.OPTForCausalLM, config, tokenizer


def _llava():
    tokenizer = make_tokenizer(["<s>", "</s>", "<image>"], bos_token="<s>", eos_token="</s>")
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
            initializer_range=0.3,
        ),
        text_config=text_config(LlamaConfig, len(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    pictures = families.clip.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = families.llava.LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA,
    )
    return families.llava.LlavaForConditionalGeneration, config, processor


def _qwen2_5_vl():
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    special += ["<|image_pad|>", "<|video_pad|>"]
    tokenizer = make_tokenizer(special, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad")}
    config = families.qwen2_5_vl.Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 14,
            "window_size": 56,
            "fullatt_block_indexes": [1],
            "initializer_range": 0.3,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": CONTEXT,
            "initializer_range": 0.3,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
        },
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )
    pictures = families.qwen2_vl.Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=56 * 84, patch_size=14)
    template = CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    kind = _without_videos(families.qwen2_5_vl.Qwen2_5_VLProcessor)
    processor = kind(pictures, tokenizer, chat_template=template)
    return families.qwen2_5_vl.Qwen2_5_VLForConditionalGeneration, config, processor


def _without_videos(kind: type) -> type:
    """The real processor, without its video part, which needs torchvision."""

    class Processor(kind):
        def check_argument_for_proper_class(self, name, argument):
            return None if name == "video_processor" else super().check_argument_for_proper_class(name, argument)

    Processor.__name__ = kind.__name__
    return Processor


def _tiles(family, config_class, model_class, processor_class, pictures_class):
    special = ["<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>"]
    special += [f"<row_{r + 1}_col_{c + 1}>" for r in range(6) for c in range(6)]
    tokenizer = make_tokenizer(
        special, eos_token="<end_of_utterance>", bos_token="<|im_start|>", pad_token="<|im_start|>"
    )
    config = config_class(
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "initializer_range": 0.3,
        },
        text_config=text_config(LlamaConfig, len(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    pictures = pictures_class(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    more = {"video_processor": SimpleNamespace(num_frames=1, fps=1)} if family == "smolvlm" else {}
    kind = _without_videos(processor_class)
    processor = kind(pictures, tokenizer, image_seq_len=4, chat_template=IDEFICS, **more)
    return model_class, config, processor


def _idefics3():
    f = families.idefics3
    return _tiles(
        "idefics3",
        f.Idefics3Config,
        f.Idefics3ForConditionalGeneration,
        f.Idefics3Processor,
        f.Idefics3ImageProcessorPil,
    )


def _smolvlm():
    f = families.smolvlm
    return _tiles(
        "smolvlm", f.SmolVLMConfig, f.SmolVLMForConditionalGeneration, f.SmolVLMProcessor, f.SmolVLMImageProcessorPil
    )


@pytest.fixture
def tiny():
    """``tiny(family, attention="sdpa")``: a fresh LanguageModel with fixed random weights."""

    def build(family: str, attention: str = "sdpa", **options):
        cls, config, processor = globals()[f"_{family}"]()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config._attn_implementation = "eager" if family == "gemma2" else attention
            model = cls(config).eval()
        return wrap(model, processor, name=f"tiny-{family}", **options)

    return build


@cache
def picture(red: int = 200, width: int = 40, height: int = 40) -> Image:
    image = Pillow.linear_gradient("L").resize((width, height)).convert("RGB")
    image.paste((red, 10, 250 - red), (4, 4, width // 2, height // 2))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return Image(data=buffer.getvalue())


@pytest.fixture
def make_picture():
    return picture


@pytest.fixture
def text_samples():
    return [
        Sample.from_instruction("short", "what is red?", "yes", task="t"),
        Sample.from_instruction(
            "long", "what colour is the big blue square, question one two three? " * 3, "no no", task="t"
        ),
        Sample(
            "turns",
            (
                Message("user", ("one?",)),
                Message("assistant", ("Größe 二 🙂",)),
                Message("user", ("two? yes",)),
            ),
            "three blue circle",
            "t",
        ),
    ]


@pytest.fixture
def image_samples(text_samples):
    return [
        Sample.from_instruction("one", "what colour is the square?", "red", images=[picture(200)], task="t"),
        Sample.from_instruction("two", "is it big?", "yes", images=[picture(30), picture(120, 64, 40)], task="t"),
        text_samples[0],
        Sample(
            "turns",
            (
                Message("user", ("look", picture(90, 30, 50), "what is it?")),
                Message("assistant", ("a square",)),
                Message("user", ("and this?", picture(10))),
            ),
            "a circle",
            "t",
        ),
    ]


def pytest_generate_tests(metafunc):
    if "text_family" in metafunc.fixturenames:
        metafunc.parametrize("text_family", TEXT_FAMILIES)
    if "image_family" in metafunc.fixturenames:
        metafunc.parametrize("image_family", IMAGE_FAMILIES)

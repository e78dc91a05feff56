"""The small model: a frozen picture encoder, a two-layer connector and a Llama, put together as LLaVA does.

Liu et al. 2023 (LLaVA-1.5, section 3.3): every picture becomes a fixed number of tokens in place of the picture
tokens of the prompt.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationMixin,
    LlamaConfig,
    LlamaModel,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from adaptinf.models.small_vlm.efficientnet import CHANNELS, STRIDE, EfficientNetLite0


class SmallVlmConfig(PretrainedConfig):
    """``text_config`` is a LlamaConfig; ``image_size`` the side of the square that pictures are scaled to."""

    model_type = "adaptinf-small-vlm"
    sub_configs = {"text_config": LlamaConfig}  # noqa: RUF012  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    def __init__(
        self,
        text_config: LlamaConfig | dict[str, Any] | None = None,
        image_token_id: int = 0,
        image_size: int = 128,
        **rest: Any,
    ) -> None:
        self.text_config = LlamaConfig(**text_config) if isinstance(text_config, dict) else text_config or LlamaConfig()
        self.image_token_id = image_token_id
        self.image_size = image_size
        super().__init__(**rest)

    @property
    def image_tokens(self) -> int:
        """Tokens of one picture."""
        return (self.image_size // STRIDE) ** 2


class _Base(PreTrainedModel):
    config_class = SmallVlmConfig
    base_model_prefix = "model"
    input_modalities = ["image", "text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["LlamaDecoderLayer"]  # noqa: RUF012


class SmallVlmModel(_Base):
    """Everything but the head."""

    def __init__(self, config: SmallVlmConfig) -> None:
        super().__init__(config)
        width = config.text_config.hidden_size
        self.vision_tower = EfficientNetLite0()
        self.connector = nn.Sequential(nn.Linear(CHANNELS, width), nn.GELU(), nn.Linear(width, width))
        self.language_model = LlamaModel(config.text_config)
        self.feature_mean = nn.Buffer(torch.zeros(CHANNELS))
        self.feature_std = nn.Buffer(torch.ones(CHANNELS))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_image_features(
        self, pixel_values: Tensor | None = None, image_features: Tensor | None = None, **_: Any
    ) -> Tensor:
        """[n, 16, width] tokens of pictures given as pixels [n, 3, 128, 128] or as the encoder's features."""
        with torch.no_grad():
            features = self.vision_tower(pixel_values) if image_features is None else image_features
            standard = features.to(torch.float32, copy=True)
            standard.sub_(self.feature_mean.float()).div_(self.feature_std.float())
        return self.connector(standard.to(self.dtype))

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        assert inputs_embeds is not None
        if pixel_values is not None or image_features is not None:
            pictures = self.get_image_features(pixel_values, image_features)
            place = (input_ids == self.config.image_token_id)[..., None].expand_as(inputs_embeds)
            if int(place.sum()) != pictures.numel():
                found, wanted = int(place[..., 0].sum()), pictures.shape[0] * pictures.shape[1]
                raise ValueError(f"the ids have {found} picture tokens, the pictures make {wanted}")
            inputs_embeds = inputs_embeds.masked_scatter(place, pictures.to(inputs_embeds.dtype))
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )


class SmallVlm(_Base, GenerationMixin):
    """The model with its head, which is tied to the token embedding."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: SmallVlmConfig) -> None:
        super().__init__(config)
        self.model = SmallVlmModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.loss_type = "ForCausalLM"
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm_head = new_embeddings

    def get_image_features(self, pixel_values: Tensor, **rest: Any) -> Tensor:
        return self.model.get_image_features(pixel_values, **rest)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            image_features=image_features,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        logits = self.lm_head(outputs.last_hidden_state[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.text_config.vocab_size)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Pictures are seen with the prompt only; afterwards they are in the cache."""
        inputs = super().prepare_inputs_for_generation(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        if not kwargs.get("is_first_iteration", False) and kwargs.get("use_cache", True):
            inputs["pixel_values"] = inputs["image_features"] = None
        return inputs


AutoConfig.register(SmallVlmConfig.model_type, SmallVlmConfig)
AutoModelForImageTextToText.register(SmallVlmConfig, SmallVlm)

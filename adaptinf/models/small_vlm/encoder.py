"""The small model's tokenizer and encoder."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import cached_property

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from adaptinf.data import Image, Sample
from adaptinf.errors import ImageError
from adaptinf.models.encoding import ChatEncoder, Images
from adaptinf.models.small_vlm.features import PictureFeatures

logger = logging.getLogger(__name__)

PAD, END, SYSTEM, USER, ASSISTANT, IMAGE = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|image|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any Unicode text can be written, whatever it was trained on. The same texts give the same one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [PAD, END, SYSTEM, USER, ASSISTANT, IMAGE]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=special[2:],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


class SmallVlmEncoder(ChatEncoder):
    """Pictures are given to the model as cached features of its frozen encoder (``image_features``)."""

    sees = True

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, features: PictureFeatures, *, image_tokens: int, max_length: int
    ) -> None:
        super().__init__(tokenizer, renderer=tokenizer, max_length=max_length)
        self.features = features
        self._image_tokens = image_tokens

    def prepare(self, samples: Sequence[Sample]) -> None:
        """Compute the features of new pictures in batches; a broken picture is left to ``encode``, which names it."""
        try:
            self.features.prepare([image for sample in samples for image in sample.images])
        except ImageError as error:
            logger.debug("a picture cannot be read: %s", error)

    def _tokenize(
        self, text: str, images: Sequence[Image], images_as: Images, *, begins: bool
    ) -> tuple[list[int], dict[str, Tensor]]:
        ids = self._text_ids(text.replace(IMAGE, IMAGE * self._image_tokens), begins)
        if not images:
            return ids, {}
        if images_as == "zero":
            return ids, {"image_features": self._grey.expand(len(images), -1, -1)}
        found = [self.features[image] for image in images]
        return ids, {"image_features": found[0][None] if len(found) == 1 else torch.stack(found)}

    @cached_property
    def _grey(self) -> Tensor:
        """Features of a preprocessed picture of zeros."""
        return self.features.compute(torch.zeros(3, self.features.size, self.features.size))[None]

"""Real tokenizers for tiny models, built without a network."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast


def trained(
    texts: Sequence[str], vocabulary: int, special: Sequence[str], *, template: str | None = None, **named: str
) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the texts; ``special`` come first, ``named`` says what some are (``eos_token=``)."""
    core = _byte_level(models.BPE())
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(special),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    unnamed = [token for token in special if token not in named.values()]
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=template, extra_special_tokens=unnamed, **named)


def of_bytes() -> PreTrainedTokenizerFast:
    """One token a byte, after ``<s>`` and ``</s>``, which pads as well."""
    signs = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = _byte_level(models.BPE(vocab={sign: i for i, sign in enumerate(signs)}, merges=[]))
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def _byte_level(model: models.BPE) -> Tokenizer:
    core = Tokenizer(model)
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return core

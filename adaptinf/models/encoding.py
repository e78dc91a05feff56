"""Samples to token ids and labels, for language models and image-text-to-text models of transformers.

Labels are never found by searching for strings: the chat template's renderings give the borders of the assistant's
turns, each stretch is tokenised on its own (so the prompt's ids at training time are those at generation time), and
the labelled ids must decode to the answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from adaptinf.data import Image, Sample, load_image
from adaptinf.errors import (
    EmptyAnswerError,
    ImageError,
    LabelError,
    SampleTooLongError,
    UnsupportedModelError,
)
from adaptinf.models.collate import IGNORED, PER_TOKEN, Encoded, collate, join_pictures
from adaptinf.models.kept import KeptEncodings
from adaptinf.models.template import PLAIN_TEMPLATE, check_control_tokens, segments, without_images
from adaptinf.progress import progress

Images = Literal["keep", "remove", "zero"]
SAMPLE_ERRORS = (EmptyAnswerError, ImageError, LabelError, SampleTooLongError)


@runtime_checkable
class Encoder(Protocol):
    """What the layers above need of a tokenizer or processor."""

    max_length: int
    pad_id: int
    stop_ids: list[int]

    def prepare(self, samples: Sequence[Sample]) -> None: ...
    def encode(self, sample: Sample, *, images: Images = "keep") -> Encoded: ...
    def encode_prompt(self, sample: Sample) -> Encoded: ...
    def encode_all(
        self, samples: Sequence[Sample], *, on_error: Literal["raise", "drop"] = "raise"
    ) -> tuple[list[Encoded], list[tuple[str, str]]]: ...
    def encode_each(
        self, samples: Sequence[Sample], *, on_error: Literal["raise", "drop"] = "raise"
    ) -> Iterator[Encoded | tuple[str, str]]: ...
    def collate(
        self, batch: Sequence[Encoded], *, padding_side: Literal["right", "left"] = "right", packed: bool = False
    ) -> dict[str, Tensor]: ...
    def decode(self, ids: Sequence[int] | Tensor) -> str: ...
    def identity(self) -> dict[str, str]: ...


class ChatEncoder(ABC):
    """Everything but the tokenisation of one stretch of text with its pictures.

    ``max_length`` is the longest sample in tokens; ``stop_ids`` the tokens that end the assistant's turn: the
    template's own and the tokenizer's EOS. A tokenizer without a chat template gets :data:`PLAIN_TEMPLATE`.

    Encodings are ``kept``. A new template, length limit or added token is noticed; any other setting of the tokenizer
    or processor is one for good.
    """

    sees = False
    """Whether samples may have pictures; the chat template then takes a list of text and image parts."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, renderer: Any, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.kept = KeptEncodings()
        self._renderer = renderer
        self._template: str | None = None
        if not renderer.chat_template:
            if tokenizer.eos_token_id is None:
                raise UnsupportedModelError(
                    "has neither a chat template nor an EOS token, so a turn would have no end",
                    item=str(tokenizer.name_or_path),
                    remedy="set tokenizer.chat_template or tokenizer.eos_token",
                )
            self._template = ("{{ bos_token }}" if self._adds_bos else "") + PLAIN_TEMPLATE
        self.pad_id = next(_given(tokenizer.pad_token_id), 0)  # padding is masked: any token does
        self.stop_ids = self._find_stop_ids()

    @abstractmethod
    def _tokenize(
        self, text: str, images: Sequence[Image], images_as: Images, *, begins: bool
    ) -> tuple[list[int], dict[str, Tensor]]:
        """Ids of a stretch of rendered text, its picture placeholders expanded, and its extras.

        ``begins``: it is the beginning of the conversation.
        """

    def _text_ids(self, text: str, begins: bool) -> list[int]:
        return self._ids(text) if begins or not self._sentinel else self._ids(self._sentinel + text)[1:]

    def prepare(self, samples: Sequence[Sample]) -> None:
        """Compute what can be shared between samples; called with everything that is about to be encoded."""

    def encode(self, sample: Sample, *, images: Images = "keep") -> Encoded:
        """Ids and labels; labels cover every assistant's turn with its end-of-turn token.

        ``images="remove"`` takes the pictures out of the conversation, ``"zero"`` keeps their tokens and gives zeros
        as the preprocessed pictures. Raises EmptyAnswerError, SampleTooLongError, LabelError, ImageError or
        UnsupportedModelError, each with the sample's id.
        """
        if not sample.answer.strip():
            raise EmptyAnswerError("the answer is empty", item=sample.id, remedy="drop the sample")
        if images == "remove":
            sample = without_images(sample)
        key = ("sample", images == "zero", self._content(sample))
        return self.kept.get(key, lambda: self._encode(sample, images, with_answer=True))

    def encode_prompt(self, sample: Sample) -> Encoded:
        """The ids after which the answer begins; labels all -100."""

        def make() -> Encoded:
            encoded = self._encode(sample, "keep", with_answer=False)
            return replace(encoded, labels=torch.full_like(encoded.labels, IGNORED))

        return self.kept.get(("prompt", self._content(sample)), make)

    def encode_all(
        self, samples: Sequence[Sample], *, on_error: Literal["raise", "drop"] = "raise"
    ) -> tuple[list[Encoded], list[tuple[str, str]]]:
        """Every sample that can be encoded, in order, and ``(id, reason)`` of those that ``drop`` left out."""
        encoded, dropped = [], []
        for found in progress(self.encode_each(samples, on_error=on_error), "tokenising", total=len(samples)):
            (encoded if isinstance(found, Encoded) else dropped).append(found)
        return encoded, dropped

    def encode_each(
        self, samples: Sequence[Sample], *, on_error: Literal["raise", "drop"] = "raise"
    ) -> Iterator[Encoded | tuple[str, str]]:
        """:meth:`encode_all` one by one, so that the pictures of all need not fit in memory."""
        self.prepare(samples)
        for sample in samples:
            try:
                yield self.encode(sample)
            except SAMPLE_ERRORS as error:
                if on_error == "raise":
                    raise
                yield sample.id, f"{type(error).__name__}: {error.problem}"

    def collate(
        self, batch: Sequence[Encoded], *, padding_side: Literal["right", "left"] = "right", packed: bool = False
    ) -> dict[str, Tensor]:
        """See :func:`adaptinf.models.collate.collate`."""
        return collate(batch, self.pad_id, padding_side=padding_side, packed=packed)

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Text without special tokens and without surrounding white space."""
        return str(
            self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        ).strip()

    def identity(self) -> dict[str, str]:
        """Digest of the vocabulary, the merges and the chat template."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        vocabulary = backend.to_str() if backend is not None else repr(sorted(self.tokenizer.get_vocab().items()))
        template = self._template or self._renderer.chat_template
        return {"tokenizer": sha256(vocabulary.encode() + str(template).encode()).hexdigest()}

    def _content(self, sample: Sample) -> Hashable:
        """All that the sample's encoding follows from, its pictures by their bytes."""
        try:
            said = tuple(
                (message.role, *(part if isinstance(part, str) else (part.sha256,) for part in message.parts))
                for message in sample.messages
            )
        except OSError as error:
            raise ImageError(f"a picture cannot be read ({error})", item=sample.id, remedy="drop the sample") from error
        template = self._template or self._renderer.chat_template
        return sample.id, said, sample.answer, self.max_length, template, len(self.tokenizer)

    def _find_stop_ids(self) -> list[int]:
        sample = Sample.from_instruction("", "question", "answer", task="")
        turn = segments(sample, self._renderer, self._template, parts=self.sees)[-1]
        ids, _ = self._close_turn(turn.text, self._text_ids(turn.text, False), last=True)
        return sorted({*(ids[-1:] if ids[-1] in self._special_ids else ()), *_given(self.tokenizer.eos_token_id)})

    def _encode(self, sample: Sample, images: Images, *, with_answer: bool) -> Encoded:
        check_control_tokens(sample, self._control_tokens)
        if sample.images and not self.sees:
            raise UnsupportedModelError(
                "has pictures, and a language model without vision cannot see them",
                item=sample.id,
                remedy="choose an image-text-to-text model, or encode with images='remove'",
            )
        parts = segments(sample, self._renderer, self._template, parts=self.sees, with_answer=with_answer)
        ids: list[int] = []
        labels: list[int] = []
        extras: list[tuple[int, dict[str, Tensor]]] = []
        for number, segment in enumerate(parts):
            try:
                new, extra = self._tokenize(segment.text, segment.images, images, begins=number == 0)
            except ValueError as error:
                raise ImageError(f"the processor refuses its pictures ({error})", item=sample.id) from error
            if segment.answer is None:
                labels += [IGNORED] * len(new)
            else:
                new, answer = self._close_turn(segment.text, new, last=number == len(parts) - 1)
                self._verify(new[:answer], segment.answer, sample.id)
                labels += new[:answer] + [IGNORED] * (len(new) - answer)
            ids += new
            extras.append((len(new), extra))
        if len(ids) + (not with_answer) > self.max_length:  # behind a prompt there must be room for a token
            raise SampleTooLongError(
                f"has {len(ids)} tokens, the context is {self.max_length}",
                item=sample.id,
                remedy="drop it (model.on_long: drop), shorten it, or raise model.max_length",
            )
        return Encoded(sample.id, torch.tensor(ids), torch.tensor(labels), _merge(extras), len(sample.images))

    def _close_turn(self, text: str, ids: list[int], *, last: bool) -> tuple[list[int], int]:
        """The turn's ids and how many of them are labelled: up to its end-of-turn token, the first special one.

        The last turn ends there. A template without one (LLaVA-1.5's) leaves the model no way to stop, so its last
        turn is closed with the EOS token.
        """
        for index, token in enumerate(ids):
            if token in self._special_ids:
                return (ids[: index + 1] if last else ids), index + 1
        if last:
            ids = [*self._text_ids(text.rstrip(), False), *_given(self.tokenizer.eos_token_id)]
        return ids, len(ids)

    def _verify(self, ids: list[int], answer: str, id: str) -> None:
        """The labelled ids say the answer, up to white space and to what the tokenizer itself cannot represent."""
        if self._special_ids.issuperset(ids) and answer.strip():
            raise EmptyAnswerError(f"{answer!r} has no tokens in this vocabulary", item=id, remedy="drop the sample")
        found, wanted = _plain(self.decode(ids)), _plain(answer)
        if found != wanted and found != _plain(self.decode(self._ids(answer))):
            raise LabelError(
                f"the labels decode to {found[:80]!r}, the answer is {wanted[:80]!r}",
                item=id,
                remedy="the chat template changes the assistant's text; give the tokenizer one that does not",
            )

    def _ids(self, text: str) -> list[int]:
        """What the tokenizer gives when called, without the bookkeeping that takes most of that call's time."""
        backend = self.tokenizer.backend_tokenizer if isinstance(self.tokenizer, PreTrainedTokenizerFast) else None
        if backend is None or backend.truncation or backend.padding or backend.encode_special_tokens:
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]  # pyright: ignore[reportReturnType]
        return backend.encode(text, add_special_tokens=False).ids

    @cached_property
    def _adds_bos(self) -> bool:
        bos = self.tokenizer.bos_token_id
        return bos is not None and bos in self.tokenizer("a")["input_ids"][:1]  # pyright: ignore[reportIndexIssue]

    @cached_property
    def _sentinel(self) -> str:
        """A special token put before a stretch that is not the first, so that no tokenizer takes it for a beginning
        of text and gives its first word another id."""
        return str(self.tokenizer.eos_token or self.tokenizer.bos_token or "")

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        added = self.tokenizer.added_tokens_decoder
        return frozenset({*self.tokenizer.all_special_ids, *(index for index, token in added.items() if token.special)})

    @cached_property
    def _control_tokens(self) -> tuple[str, ...]:
        return tuple(sorted(str(self.tokenizer.convert_ids_to_tokens(index)) for index in self._special_ids))


class TextEncoder(ChatEncoder):
    """A tokenizer of a causal language model."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> None:
        super().__init__(tokenizer, renderer=tokenizer, max_length=max_length)

    def _tokenize(
        self, text: str, images: Sequence[Image], images_as: Images, *, begins: bool
    ) -> tuple[list[int], dict[str, Tensor]]:
        return self._text_ids(text, begins), {}


class ImageTextEncoder(ChatEncoder):
    """The processor of any image-text-to-text model of transformers (LLaVA, Qwen2.5-VL, Idefics3, SmolVLM, ...).

    Samples may hold any number of pictures, or none.
    """

    sees = True

    def __init__(self, processor: Any, *, max_length: int) -> None:
        self.processor = processor
        super().__init__(processor.tokenizer, renderer=processor, max_length=max_length)

    def _tokenize(
        self, text: str, images: Sequence[Image], images_as: Images, *, begins: bool
    ) -> tuple[list[int], dict[str, Tensor]]:
        if begins and self._adds_bos and not text.startswith(str(self.tokenizer.bos_token)):
            text = f"{self.tokenizer.bos_token}{text}"
        if not images:
            return self._text_ids(text, begins), {}
        prefix = "" if begins else self._sentinel
        made = self.processor(
            text=[prefix + text],
            images=[load_image(image) for image in images],
            add_special_tokens=False,
            return_tensors="pt",
        )
        skip = 1 if prefix else 0
        extras = {key: value for key, value in made.items() if key not in {"input_ids", "attention_mask"}}
        for key in PER_TOKEN & extras.keys():
            extras[key] = extras[key][0, skip:].to(torch.int64)
        if images_as == "zero":
            extras = {key: _zeroed(value) if key == "pixel_values" else value for key, value in extras.items()}
        return made["input_ids"][0, skip:].tolist(), extras

    @cached_property
    def _control_tokens(self) -> tuple[str, ...]:
        placeholders = {getattr(self.processor, name, None) for name in ("image_token", "video_token")}
        return tuple(sorted({*super()._control_tokens, *(token for token in placeholders if isinstance(token, str))}))


def _merge(stretches: Sequence[tuple[int, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """The extras of a sample's stretches, each with its length, as one; per-token extras only where one is not 0."""
    merged = {}
    for key in sorted({key for _, extra in stretches for key in extra}):
        if key in PER_TOKEN:
            none = [torch.zeros(length, dtype=torch.int64) for length, _ in stretches]
            merged[key] = torch.cat([extra.get(key, zero) for zero, (_, extra) in zip(none, stretches, strict=True)])
        else:
            merged[key] = join_pictures(extra[key] for _, extra in stretches if key in extra)
    return {key: value for key, value in merged.items() if key not in PER_TOKEN or bool(value.any())}


def _zeroed(pixels: Tensor) -> Tensor:
    """Zeros. Idefics3 and SmolVLM take a picture of zeros for padding and skip it: one value stays just above zero."""
    zeros = torch.zeros_like(pixels)
    if pixels.dim() == 5:
        zeros[..., 0, 0, 0] = 1e-6
    return zeros


def _given(token: Any) -> Iterator[int]:
    """The token, if there is one."""
    if token is not None:
        yield int(token)


def _plain(text: str) -> str:
    return " ".join(text.split())

"""A transformers (or peft) model with what the layers above need of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from inspect import signature
from typing import Any, Literal

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from adaptinf.data import Sample
from adaptinf.errors import UnsupportedModelError
from adaptinf.models import flops
from adaptinf.models.collate import IGNORED
from adaptinf.models.encoding import Encoder, ImageTextEncoder, TextEncoder
from adaptinf.models.fused import fused_layers
from adaptinf.progress import progress as progress_bar

_NOT_FORWARDED = frozenset({"labels", "cu_seqlens"})


class LanguageModel:
    """``model`` is a causal or image-text-to-text model, or a peft model around one; ``encoder`` fits it.

    What transformers does not declare is measured once on a probe of a few tokens: whether the logits are the head's
    plain output (``head``), and whether a packed row equals its samples alone (``supports_packing``). Raises
    UnsupportedModelError where the model has no output embedding or no list of decoder layers.
    """

    def __init__(self, model: nn.Module, encoder: Encoder, name: str) -> None:
        self.model, self.encoder, self.name = model, encoder, name
        if getattr(self.base, "get_output_embeddings", lambda: None)() is None:
            raise UnsupportedModelError("has no language-model head", item=name, remedy="load a ...ForCausalLM class")

    @property
    def base(self) -> Any:
        """The transformers model, inside the peft wrapper where there is one."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model  # pyright: ignore[reportCallIssue]

    @property
    def device(self) -> torch.device:
        """Where the inputs belong: the device of the token embedding."""
        return next(self.base.get_input_embeddings().parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    def text_config(self) -> Any:
        return self.base.config.get_text_config()

    @property
    def decoder_layers(self) -> list[tuple[str, nn.Module]]:
        """``(qualified name, module)``, first to last, of the language model's layers (never a vision tower's).

        They are the list of ``num_hidden_layers`` modules nearest to the token embedding.
        """
        embedding = self.base.get_input_embeddings()
        place = next(name for name, module in self.model.named_modules() if module is embedding)
        while place:
            place = place.rpartition(".")[0]
            parent = self.model.get_submodule(place)
            for name, child in parent.named_children():
                if isinstance(child, nn.ModuleList) and len(child) == self.text_config.num_hidden_layers:
                    prefix = f"{place}.{name}" if place else name
                    return [(f"{prefix}.{index}", layer) for index, layer in enumerate(child)]
        raise UnsupportedModelError(
            f"has no list of {self.text_config.num_hidden_layers} decoder layers beside its token embedding",
            item=self.name,
            remedy="use a decoder-only model of transformers",
        )

    @cached_property
    def head(self) -> nn.Linear | None:
        """The output projection; None where the logits are more than its output (soft caps, scales, adapters)."""
        head = self.base.get_output_embeddings()
        if not isinstance(head, nn.Linear) or not head.weight.is_floating_point():
            return None
        batch = self._probe([self._probe_ids(5)])
        with torch.no_grad(), evaluating(self.model):
            plain = head(self.hidden_states(batch))
            logits = self.logits(batch)
        return head if torch.equal(plain.float(), logits.float()) else None

    @cached_property
    def supports_packing(self) -> bool:
        """Whether ``collate(packed=True)`` gives every sample the logits it has alone.

        False for multimodal rotary positions (Qwen2-VL and after), which are computed from a padded batch.
        """
        if self._multimodal_positions:
            return False
        ids = self._probe_ids(8)
        row = torch.tensor([ids], device=self.device)
        positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]], device=self.device)
        with torch.no_grad(), evaluating(self.model):
            alone = torch.cat([self.logits(self._probe([part])) for part in (ids[:4], ids[4:])], 1).double()
            mixed = self.logits(self._probe([ids])).double()
            try:
                packed = self.logits({"input_ids": row, "position_ids": positions}).double()
            except (TypeError, ValueError, RuntimeError):
                return False
        # Rounding is far below what the first sample does to the second where the two see each other.
        effect = (mixed - alone).norm()
        return bool((packed - alone).norm() <= 3 * torch.finfo(self.dtype).eps ** 0.5 * effect)

    @property
    def packs_rows(self) -> bool:
        """Whether attention takes the samples of a packed row one by one (flash attention), as it costs their squares.

        Other implementations hold a mask over the square of the whole row.
        """
        return "flash" in str(self.base.config._attn_implementation)  # noqa: SLF001 - transformers has no other name

    def hidden_states(self, batch: dict[str, Tensor]) -> Tensor:
        """The head's input [B, T, d], with its graph where gradients are on.

        The head itself is handed no token, so that it costs nothing.
        """
        kept: list[Tensor] = []

        def keep(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            kept.append(args[0])
            return (args[0][:, :0], *args[1:])

        hook = self.base.get_output_embeddings().register_forward_pre_hook(keep)
        try:
            self._forward(batch)
        finally:
            hook.remove()
        return kept[0]

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """[B, T, V], whatever the model makes of its head's output."""
        return self._forward(batch).logits

    def answer_nll(self, batch: dict[str, Tensor], *, reduction: Literal["sum", "none"] = "sum") -> Tensor:
        """Sum over the answers' tokens of -log p, float32, with its graph where gradients are on; with ``none`` each
        token's, row after row.

        The head is run on these tokens alone. What some models add to their own loss, such as the balance of experts,
        is not in it.
        """
        targets = batch["labels"][:, 1:].to(self.device)
        answers = targets != IGNORED
        if self.head is not None:
            logits = self.head(self.hidden_states(batch)[:, :-1][answers])
        else:
            logits = self.logits(batch)[:, :-1][answers]
        return F.cross_entropy(logits.float(), targets[answers], reduction=reduction)

    def generate(
        self,
        samples: Sequence[Sample],
        *,
        max_new_tokens: int,
        batch_size: int,
        progress: str = "",
        around: Callable[[list[int]], AbstractContextManager[None]] | None = None,
    ) -> list[str]:
        """Greedy answers, in the order of ``samples``; the same for every batch size up to rounding.

        A batch is left-padded and holds prompts of like length. It stops at the template's end-of-turn token, EOS,
        or the context's end. It is run inside ``around(numbers of its samples, in the order of its rows)``.
        """
        self.encoder.prepare(samples)
        prompts = [self.encoder.encode_prompt(sample) for sample in samples]
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i].input_ids), i))
        answers = [""] * len(prompts)
        with progress_bar(total=len(prompts), description=progress or "answering") as bar, _answering(self.model):
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                batch = self.encoder.collate([prompts[i] for i in chosen], padding_side="left")
                room = self.encoder.max_length - batch["input_ids"].shape[1]
                with around(chosen) if around else nullcontext():
                    made = self._greedy(batch, min(max_new_tokens, room))
                for i, ids in zip(chosen, made, strict=True):
                    answers[i] = self.encoder.decode(ids)
                bar.update(len(chosen))
        return answers

    def flops(
        self, lengths: Sequence[int], *, backward_layers: int = 0, weight_gradients: bool = False, pixels: int = 0
    ) -> float:
        """Floating-point operations of one pass; see :mod:`adaptinf.models.flops`.

        ``lengths``: tokens of each sample; ``backward_layers``: through how many of the last decoder layers the
        gradient flows (0: forward only); ``weight_gradients``: also those of the trainable weights; ``pixels``:
        values of ``pixel_values`` that the vision tower is run on.
        """
        count = self._flop_count.language(lengths, backward_layers=backward_layers, weight_gradients=weight_gradients)
        return count + (pixels * self._vision_flops_per_value if pixels else 0.0)

    def identity(self) -> dict[str, str]:
        """Name, digests of base weights, adapter and tokenizer, dtype, attention and library versions."""
        base, adapter = hashlib.sha256(), hashlib.sha256()
        adapted = False
        for name, tensor in sorted((*self.model.named_parameters(), *self.model.named_buffers())):
            ours = "lora_" in name or "modules_to_save" in name
            adapted |= ours
            plain = name.replace("base_model.model.", "").replace("base_layer.", "").replace("original_module.", "")
            digest = adapter if ours else base
            digest.update(f"{plain}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return {
            "model": self.name,
            "weights": base.hexdigest(),
            "adapter": adapter.hexdigest() if adapted else "none",
            **self.encoder.identity(),
            "dtype": str(self.dtype).removeprefix("torch."),
            "attention": str(self.base.config._attn_implementation),  # noqa: SLF001 - transformers has no other name
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    def to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the model's forward takes of a collated batch, on its device and in its dtype."""
        return {
            key: value.to(self.device, self.dtype if value.is_floating_point() else value.dtype)
            for key, value in batch.items()
            if key not in _NOT_FORWARDED
        }

    def _forward(self, batch: dict[str, Tensor]) -> Any:
        inputs = self.to_device(batch)
        mask = inputs.get("attention_mask")
        if mask is not None and self._takes_positions and bool((mask[:, 0] == 0).any()):
            # Left padding: learned positions would count the padding.
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp_min(0)
        return self.model(**inputs, use_cache=False)

    @property
    def _takes_positions(self) -> bool:
        return "position_ids" in signature(self.base.forward).parameters and not self._multimodal_positions

    @cached_property
    def _multimodal_positions(self) -> bool:
        """Rotary positions in time, height and width, which the model computes from mask and pictures."""
        return any(hasattr(module, "get_rope_index") for module in self.base.modules())

    @torch.no_grad()
    def _greedy(self, batch: dict[str, Tensor], max_new_tokens: int) -> list[Tensor]:
        config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            temperature=1.0,
            top_p=1.0,
            top_k=50,
            eos_token_id=self.encoder.stop_ids,
            pad_token_id=self.encoder.pad_id,
            use_cache=True,
        )
        prompt = batch["input_ids"].shape[1]
        made = self.base.generate(**self.to_device(batch), generation_config=config)[:, prompt:].cpu()
        stops = torch.isin(made, torch.tensor(self.encoder.stop_ids))
        ends = [int(row.nonzero()[0]) if row.any() else len(row) for row in stops]
        return [row[:end] for row, end in zip(made, ends, strict=True)]

    @property
    def _flop_count(self) -> flops.FlopCount:
        layers = [layer for _, layer in self.decoder_layers]
        return flops.FlopCount.of(layers, self.base.get_output_embeddings(), self.text_config)

    @cached_property
    def _vision_flops_per_value(self) -> float:
        return flops.vision_flops_per_value(self.base, self.encoder, self.to_device)

    def _probe_ids(self, count: int) -> list[int]:
        """Plain tokens: neither special ones nor picture placeholders."""
        encoded = self.encoder.encode_prompt(Sample.from_instruction("", "one two three four five six", "", task=""))
        special = set(self.encoder.stop_ids)
        ids = [i for i in encoded.input_ids.tolist() if i not in special]
        return [ids[i % len(ids)] for i in range(count)]

    def _probe(self, rows: list[list[int]]) -> dict[str, Tensor]:
        ids = torch.tensor(rows, device=self.device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def wrap(model: nn.Module, processor: Any, *, name: str = "", max_length: int | None = None) -> LanguageModel:
    """A LanguageModel around a transformers model and its tokenizer (text) or processor (pictures and text)."""
    name = name or str(getattr(model, "name_or_path", "") or type(model).__name__)
    if processor is None:
        raise UnsupportedModelError("comes without a tokenizer or processor", item=name, remedy="pass processor=...")
    base: Any = model.get_base_model() if hasattr(model, "peft_config") else model  # pyright: ignore[reportCallIssue]
    context = getattr(base.config.get_text_config(), "max_position_embeddings", None) or 2048
    length = min(max_length or context, context)
    text_only = isinstance(processor, PreTrainedTokenizerBase)
    encoder = (TextEncoder if text_only else ImageTextEncoder)(processor, max_length=length)
    return LanguageModel(model, encoder, name)


@contextmanager
def _answering(model: nn.Module) -> Iterator[None]:
    with evaluating(model), fused_layers(model):
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off; every module's mode is as before afterwards."""
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training

"""The small model made on the spot: tokenizer, feature statistics and weights from a slice of the data."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, PreTrainedTokenizerFast

from adaptinf.config import PretrainConfig
from adaptinf.data import Sample
from adaptinf.errors import ConfigError, EmptyTaskError, NonFiniteError
from adaptinf.models.collate import IGNORED, Encoded, like_lengths
from adaptinf.models.fused import fused_layers
from adaptinf.models.language_model import LanguageModel
from adaptinf.models.small_vlm.efficientnet import EfficientNetLite0, pip_weights, state_from_pip
from adaptinf.models.small_vlm.encoder import END, IMAGE, PAD, SmallVlmEncoder, train_tokenizer
from adaptinf.models.small_vlm.features import PictureFeatures
from adaptinf.models.small_vlm.modeling import SmallVlm, SmallVlmConfig
from adaptinf.progress import progress
from adaptinf.store import publish

logger = logging.getLogger(__name__)

VOCABULARY = 2048
CONTEXT = 1024
ARCHITECTURE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "initializer_range": 0.08,  # about 1/sqrt(width); with 0.02, made for wide models, it learns at half the speed
}
IMAGE_SIZE = 128
_STATISTICS_PICTURES = 1000


def load_small_vlm(
    config: PretrainConfig, pretraining: Sequence[Sample], cache: Path, *, attention: str, max_length: int | None
) -> LanguageModel:
    """The pre-trained small model, from the cache if this recipe has already met these samples."""
    if not pretraining:
        raise ConfigError(
            "is trained on the spot and needs samples to learn from",
            item="model.name=small-vlm",
            remedy="pass pretraining=split_pretraining(stream, ...)[0], or name the folder of a saved model",
        )
    tower = load_tower(cache)
    features = PictureFeatures(tower, IMAGE_SIZE, cache / "picture-features")
    folder = cache / "small-vlm" / recipe_digest(config, pretraining)
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.is_dir():  # another process may have made it while this one waited
                lm = pretrain(config, pretraining, tower, features)
                publish(folder, lambda path: save(lm, path))
    return open_small_vlm(folder, features, attention=attention, max_length=max_length)


def open_small_vlm(
    folder: Path,
    features: PictureFeatures | None = None,
    *,
    attention: str,
    max_length: int | None,
    cache: Path | None = None,
) -> LanguageModel:
    """A saved small model. Without ``features``, pictures are encoded by the model's own encoder."""
    model = SmallVlm.from_pretrained(folder, attn_implementation=attention, local_files_only=True)
    model.model.vision_tower.requires_grad_(False)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    if features is None:
        tower = EfficientNetLite0()
        tower.load_state_dict(model.model.vision_tower.state_dict())
        features = PictureFeatures(tower, model.config.image_size, cache / "picture-features" if cache else None)
    return assemble(model, tokenizer, features, name=f"small-vlm-{folder.name[:16]}", max_length=max_length)


def assemble(
    model: SmallVlm,
    tokenizer: PreTrainedTokenizerFast,
    features: PictureFeatures,
    *,
    name: str,
    max_length: int | None,
) -> LanguageModel:
    context = model.config.text_config.max_position_embeddings
    encoder = SmallVlmEncoder(
        tokenizer, features, image_tokens=model.config.image_tokens, max_length=min(max_length or context, context)
    )
    return LanguageModel(model.eval(), encoder, name)


def save(lm: LanguageModel, path: Path) -> None:
    lm.base.save_pretrained(path)
    lm.encoder.tokenizer.save_pretrained(path)  # pyright: ignore[reportAttributeAccessIssue]


def load_tower(cache: Path) -> EfficientNetLite0:
    """The picture encoder; its weights are converted to safetensors once."""
    file = cache / "efficientnet-lite0" / "model.safetensors"
    if not file.is_file():
        source = pip_weights()
        publish(file, lambda path: save_file(state_from_pip(source), path))
    tower = EfficientNetLite0()
    tower.load_state_dict(load_file(file))
    return tower


def recipe_digest(config: PretrainConfig, samples: Sequence[Sample]) -> str:
    """Identity of everything that decides the weights."""
    digest = hashlib.sha256()
    recipe = (asdict(config), VOCABULARY, CONTEXT, ARCHITECTURE, IMAGE_SIZE, version("torch"), version("transformers"))
    digest.update(repr(recipe).encode())
    for sample in samples:
        digest.update(repr((sample.id, sample.prompt, sample.answer, [i.sha256 for i in sample.images])).encode())
    return digest.hexdigest()


def build(samples: Sequence[Sample], tower: EfficientNetLite0, features: PictureFeatures, seed: int) -> LanguageModel:
    """The untrained model: tokenizer and feature statistics of the samples, weights drawn by seed."""
    tokenizer = train_tokenizer((text for sample in samples for text in (sample.prompt, sample.answer)), VOCABULARY)
    token_ids = tokenizer.get_vocab()
    text_config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=token_ids[PAD],
        eos_token_id=token_ids[END],
        bos_token_id=None,
        **ARCHITECTURE,
    )
    config = SmallVlmConfig(
        text_config=text_config,
        image_token_id=token_ids[IMAGE],
        image_size=IMAGE_SIZE,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SmallVlm(config)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    lm = assemble(model, tokenizer, features, name="small-vlm", max_length=None)
    lm.encoder.prepare(samples)
    images = list({image.sha256: image for sample in samples for image in sample.images}.values())
    if images:
        step = math.ceil(len(images) / _STATISTICS_PICTURES)
        seen = torch.cat([features[image] for image in images[::step]]).double()
        model.model.feature_mean.copy_(seen.mean(0))
        model.model.feature_std.copy_(seen.std(0).clamp_min(1e-3))
    return lm


def pretrain(
    config: PretrainConfig, samples: Sequence[Sample], tower: EfficientNetLite0, features: PictureFeatures
) -> LanguageModel:
    """All weights but the picture encoder's, trained with AdamW and a cosine schedule on the answers' mean NLL.

    Deterministic in ``config.seed`` for one thread count and library version.
    """
    lm = build(samples, tower, features, config.seed)
    encoded, dropped = lm.encoder.encode_all(samples, on_error="drop")
    if dropped:
        logger.warning(
            "pre-training leaves out %d of %d samples, the first: %s", len(dropped), len(samples), dropped[0]
        )
    if not encoded:
        raise EmptyTaskError("no sample of the pre-training can be used", item=dropped[0][0], remedy=dropped[0][1])
    model = lm.model.train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _cosine(step, config.steps))
    batches = _batches(encoded, config)
    bar = progress(total=config.steps * config.batch_size, description="pre-training small-vlm")
    with bar, fused_layers(lm.model):
        for step in range(config.steps):
            batch = next(batches)
            loss = _answer_loss(lm, batch)
            if not bool(torch.isfinite(loss)):
                raise NonFiniteError(
                    f"the loss is {float(loss)} at step {step}",
                    item="model.pretrain",
                    remedy="lower model.pretrain.learning_rate",
                )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad(set_to_none=True)
            bar.update(len(batch))
            bar.set_postfix(loss=f"{float(loss.detach()):.3f}", refresh=False)
    model.eval()
    return lm


def _answer_loss(lm: LanguageModel, batch: Sequence[Encoded]) -> Tensor:
    """Mean NLL of the answer tokens."""
    parts = like_lengths([len(one.input_ids) for one in batch])
    tokens = sum(int((one.labels != IGNORED).sum()) for one in batch)
    nll = [lm.answer_nll(lm.encoder.collate([batch[i] for i in part])) for part in parts]
    return torch.stack(nll).sum() / tokens


def _batches(encoded: Sequence[Encoded], config: PretrainConfig) -> Iterator[list[Encoded]]:
    generator = torch.Generator().manual_seed(config.seed)
    pending: list[int] = []
    while True:
        while len(pending) < config.batch_size:
            pending += torch.randperm(len(encoded), generator=generator).tolist()
        chosen, pending = pending[: config.batch_size], pending[config.batch_size :]
        yield [encoded[i] for i in chosen]


def _cosine(step: int, steps: int) -> float:
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

"""Every setting of a run, as frozen dataclasses: types, defaults, bounds and one line of help each."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Literal

from adaptinf_kernels import Sketch

from adaptinf.errors import ConfigError

UNBUDGETED = ("sequential", "multitask", "full", "rehearsal", "instructalign")
"""Strategies that do not ask ``budget``: what they train on follows from what has arrived. ``switch`` is one where its
``routing.selector`` is."""


def _option(default: Any, help: str, **bounds: float) -> Any:
    """A field with its help; bounds are ``at_least``, ``above`` and ``at_most``. Lists and dataclasses are copied."""
    metadata = {"help": help, "bounds": bounds}
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class TaskSpec:
    """One dataset of the stream, read from files."""

    name: str = _option("", "name of the task; unique in the stream")
    skill: str = _option("", "what the task exercises; tasks may share a skill")
    metric: str = _option("exact_match", "metric of the score matrix, a name of adaptinf.evaluation")
    max_new_tokens: int = _option(32, "longest answer generated in evaluation, in tokens", at_least=1)
    train: list[str] = _option([], "training files, relative to data.root")
    test: list[str] = _option([], "test files, relative to data.root")
    test_fraction: float | None = _option(
        None, "without test files: the share of groups held out for testing", above=0, at_most=1
    )
    format: Literal["jsonl", "llava", "parquet", "hf"] = _option("jsonl", "format of the files")
    image_root: str | None = _option(None, "folder of the pictures, relative to data.root (default: data.root)")
    limit: int | None = _option(None, "take at most so many training samples, drawn by seed", at_least=1)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the stream of tasks comes from."""

    source: Literal["demo", "bundle", "files"] = _option(
        "demo", "demo: tasks made from pip packages; bundle: a folder of <task>.<split>.jsonl.gz; files: data.tasks"
    )
    root: str | None = _option(None, "folder that every path of the data is relative to and may not leave")
    tasks: list[TaskSpec] = _option([], "the tasks, in order of arrival (source: files)")
    order: list[str] = _option([], "names of the tasks to use, in order of arrival (default: all, as listed)")
    instruction_position: Literal["given", "last"] = _option(
        "given",
        "where the instruction stands in a prompt: where the data put it, or last, behind its input (Post-Instruction)",
    )
    max_characters: int | None = _option(
        None, "samples whose conversation is longer are left out, before the limits draw", at_least=1
    )
    train_fraction: float = _option(
        1.0,
        "share of each task's training samples, drawn by seed: a smaller stream of the same proportions",
        above=0,
        at_most=1,
    )
    train_limit: int | None = _option(None, "at most so many training samples a task, drawn by seed", at_least=1)
    test_limit: int | None = _option(None, "at most so many test samples a task, drawn by seed", at_least=1)
    max_bad_fraction: float = _option(
        0.01, "broken records are quarantined; a larger share of them is an error", at_least=0, at_most=1
    )
    verify_images: bool = _option(True, "decode every picture while reading, so that broken ones are found at once")
    max_pixels: int = _option(
        50_000_000, "a picture with more pixels is refused as a decompression bomb", at_least=1, at_most=89_478_485
    )


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """Pre-training of the small-vlm preset on a slice of the stream, or on other tasks; cached by settings and data."""

    fraction: float = _option(0.3, "share of each task's training groups that it sees", above=0, at_most=1)
    tasks: list[str] = _option(
        [], "see these tasks of the data's source, none of them in the stream, instead of a share of the stream"
    )
    train_limit: int | None = _option(None, "at most so many samples of each of these tasks", at_least=1)
    steps: int = _option(1000, "optimiser steps", at_least=1)
    batch_size: int = _option(32, "samples a step", at_least=1)
    learning_rate: float = _option(1e-3, "peak learning rate", above=0)
    seed: int = _option(0, "seed of initialisation and order", at_least=0)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The model that is tuned."""

    name: str = _option("small-vlm", "a preset (small-vlm, smollm2-135m), a local folder or a Hugging Face id")
    revision: str | None = _option(None, "commit of the Hugging Face id")
    dtype: Literal["float32", "bfloat16", "float16"] = _option("float32", "dtype of the base weights")
    attention: Literal["sdpa", "eager", "flash_attention_2"] = _option("sdpa", "attention implementation")
    quantization: Literal["8bit", "4bit"] | None = _option(None, "quantise the base weights with bitsandbytes")
    max_length: int | None = _option(None, "longest sample in tokens (default: the model's context)", at_least=1)
    device: str = _option("auto", "auto, cpu, cuda or cuda:N")
    on_long: Literal["raise", "drop"] = _option(
        "raise",
        "a sample longer than the context, in training and testing: an error, or left out and counted; of the test "
        "samples the same at every step, so that models of one context are compared on the same ones",
    )
    pretrain: PretrainConfig = _option(PretrainConfig, "pre-training of the small-vlm preset")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """The adapter, made by peft."""

    r: int = _option(16, "rank", at_least=1)
    alpha: float = _option(32.0, "scale numerator", above=0)
    dropout: float = _option(0.0, "dropout of the adapter's input in training", at_least=0, at_most=1)
    rslora: bool = _option(False, "scale by alpha/sqrt(r) instead of alpha/r")
    target_modules: Literal["all-linear"] | list[str] = _option("all-linear", "modules that get an adapter")


@dataclasses.dataclass(frozen=True)
class FeatureConfig:
    """What one pass over the pool measures."""

    layers: Literal["first", "middle", "last", "all", "whole"] | list[int] = _option(
        "middle", "decoder layers whose parameters' gradients are sketched; whole: with embedding, norms and head"
    )
    parameters: Literal["lora", "linear", "all"] = _option(
        "lora", "the layers' LoRA parameters, their full Linear weights, or all parameters of their own"
    )
    sketch: Literal["sjlt", "rademacher", "xorts", "kron"] = _option("sjlt", "kind of random projection")
    k: int = _option(1024, "dimension of the sketch", at_least=1)
    sketch_seed: int = _option(0, "seed of the projection", at_least=0)
    nonzeros: int = _option(1, "entries per column of the sjlt sketch, a divisor of k", at_least=1)
    repetitions: int = _option(1, "repetitions of the xorts sketch, whose k is a power of two", at_least=1, at_most=4)
    loss: Literal["mean_answer_tokens", "sum"] = _option("mean_answer_tokens", "loss whose gradient is taken")
    hidden_layer: Literal["last"] | int = _option("last", "decoder layer whose mean hidden state is kept")
    image_grounding: Literal["remove", "zero"] = _option(
        "remove", "the 'without image' pass removes the picture (paper) or zeroes it (released code)"
    )
    batch_tokens: Literal["auto"] | int = _option(
        "auto", "tokens a batch of the pass over the pool; auto: what the device holds", at_least=1
    )
    on_nonfinite: Literal["raise", "drop", "zero"] = _option("raise", "what to do with a NaN or infinite feature")
    refresh: Literal["step", "arrival"] = _option(
        "step", "measure the whole pool at every step (paper), or each sample once, by the model that it arrives at"
    )

    def __post_init__(self) -> None:
        try:
            self.make_sketch()
        except (TypeError, ValueError) as error:
            remedy = "change sketch, k, nonzeros or repetitions"
            raise ConfigError(str(error), item="features", remedy=remedy) from error

    def make_sketch(self) -> Sketch:
        """The sketch that the settings name."""
        return Sketch(self.sketch, self.k, self.sketch_seed, self.nonzeros, self.repetitions)


@dataclasses.dataclass(frozen=True)
class SelectionConfig:
    """How a budget is spread over the pool."""

    n_clusters: Literal["auto"] | int = _option(10, "pseudo-skill clusters; auto: the elbow of the inertia", at_least=1)
    backend: Literal["adaptinf", "faiss", "cuvs"] = _option(
        "adaptinf", "whose k-means: this library's, FAISS's (CPU) or cuVS's (GPU), which must be installed"
    )
    scorers: list[str] = _option(
        ["perplexity", "el2n", "entropy", "image_grounding"], "scorers each cluster chooses from"
    )
    bins: int = _option(50, "bins of the scorers' histograms and of the coverage sampling", at_least=2)
    cluster_by: Literal["sketch", "hidden"] = _option(
        "sketch", "what is clustered: gradient sketches (paper) or mean hidden states"
    )
    scores: Literal["raw", "ranks"] = _option(
        "raw", "scores as they are (paper), or their ranks in the pool, which hold no scale"
    )
    new_share: float | None = _option(
        None,
        "share of the budget for the arriving dataset, any selector's (default: left to it)",
        at_least=0,
        at_most=1,
    )
    text_share: float | None = _option(
        None,
        "share of the budget for samples without pictures, any selector's (MLAN; default: left to it)",
        at_least=0,
        at_most=1,
    )
    rehearsal: float | int = _option(
        0.01,
        "what rehearsal (of each older task) and instructalign (of all older samples) add: a share, or samples",
        above=0,
    )


@dataclasses.dataclass(frozen=True)
class PruneConfig:
    """What stays in the pool for later steps."""

    pool_budget: float | int | None = _option(
        None, "size of the pool after a step: a share of all samples so far, or samples (default: no pruning)", above=0
    )
    keep: Literal["reference", "greedy"] = _option(
        "reference", "similarity that counts: to every earlier sample (SemDeDup), or to the kept ones only"
    )
    order: Literal["shuffle", "centroid_distance"] = _option("shuffle", "which of two near-duplicates comes first")
    within: Literal["cluster", "group"] = _option(
        "cluster",
        "where near-duplicates are looked for: in the selector's clusters, or in the groups that the data name, else "
        "among samples of the same pictures",
    )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One LoRA fit on the selected samples."""

    epochs: float = _option(1.0, "passes over the selected samples", above=0)
    steps: int | None = _option(None, "optimiser steps; overrides epochs", at_least=1)
    batch_size: int = _option(16, "samples a forward pass", at_least=1)
    gradient_accumulation: int = _option(1, "forward passes a step", at_least=1)
    learning_rate: float = _option(2e-4, "peak learning rate of AdamW", above=0)
    schedule: Literal["cosine", "linear", "constant"] = _option("cosine", "learning rate after the warm-up")
    warmup_ratio: float = _option(0.03, "share of the steps that warm up", at_least=0, at_most=1)
    weight_decay: float = _option(0.0, "decoupled weight decay", at_least=0)
    max_grad_norm: float = _option(1.0, "gradients are clipped to this norm", above=0)
    gradient_checkpointing: bool = _option(False, "recompute activations in the backward pass to save memory")
    carry_lora: Literal["continue", "merge", "fresh"] = _option(
        "continue", "adapter at the next step: the same one, merged into the base and new, or new (switch: always new)"
    )
    regulariser: Literal["none", "l2", "ewc", "olora"] = _option(
        "none",
        "penalty on the adapter from the second step on: distance to what it was, the same by Fisher information (both "
        "with carry_lora continue), or overlap with the earlier, merged ones (O-LoRA)",
    )
    regulariser_weight: float = _option(1.0, "weight of the penalty beside the loss, in nats a token", at_least=0)
    fisher_samples: int = _option(
        200, "of a step's training samples, drawn by seed, ewc takes the Fisher information from so many", at_least=1
    )
    on_nonfinite: Literal["raise", "skip"] = _option("raise", "what to do with a step whose loss is not finite")


@dataclasses.dataclass(frozen=True)
class RoutingConfig:
    """Strategy switch: an adapter for every task, and a router that sends each request to one of them."""

    router: Literal["switch", "anchor", "autoencoder", "centroid", "arrow"] = _option(
        "switch",
        "switch network (SwitchCIT), anchors (HiDe-LLaVA), autoencoders (D-MoLE), nearest centroids, or arrow, which "
        "is made from the adapters and asks nothing of what follows but abstain and selector",
    )
    encoder: Literal["sketch", "hidden"] = _option(
        "sketch", "what a router sees of a request: a sketch of its words' gradient, or a hidden state (SwitchCIT)"
    )
    model: str | None = _option(
        None, "frozen model that encodes requests, a preset, a local folder or a Hugging Face id (default: the base)"
    )
    k: int = _option(512, "dimension of the sketch", at_least=1)
    layer: Literal["last"] | int = _option("last", "decoder layer of the hidden state")
    pooling: Literal["last", "mean"] = _option("last", "hidden state of the prompt's last token, or the mean")
    exemplars: int | float = _option(
        10, "requests of a task that the switch network keeps, as vectors: a number, or a share in (0, 1]", above=0
    )
    abstain: float | None = _option(
        None,
        "share of a task's own requests that may go to the base model so that foreign ones do (default: none go)",
        at_least=0,
        at_most=1,
    )
    selector: str = _option(
        "full", "what an adapter is trained on: full, or a selector, whose budget is a share of the arriving dataset"
    )


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Evaluation after each step."""

    limit: int | None = _option(None, "test samples a task (default: all)", at_least=1)
    batch_size: int = _option(32, "samples generated at once", at_least=1)
    tasks: Literal["all", "seen", "new"] = _option(
        "all",
        "scored after each step: all tasks (forward transfer too), those that have come, or the new one; at last, all",
    )
    nll: bool = _option(True, "also measure the answers' negative log-likelihood")
    prompts_together: int = _option(
        1,
        "test samples asked in one prompt (OverPrompt); an answer that cannot be told apart counts as wrong",
        at_least=1,
    )


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """The HTML report."""

    gallery: int = _option(6, "samples shown for each decision (selected, kept, dropped) of a step", at_least=0)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One run: one stream, one model, one strategy."""

    out: str | None = _option(None, "directory of the run; an unfinished run in it is continued")
    seed: int = _option(0, "seed of everything that draws", at_least=0)
    strategy: str = _option(
        "paper", "sequential, multitask, random_replay, paper, released, lite, switch or a registered selector"
    )
    budget: float | int = _option(
        0.25, "training samples of a step: a share (0 to 1] of all samples so far, or a whole number", above=0
    )
    cache: str | None = _option(None, "folder of reusable files (default: $ADAPTINF_CACHE or ~/.cache/adaptinf)")
    data: DataConfig = _option(DataConfig, "the stream of tasks")
    model: ModelConfig = _option(ModelConfig, "the model")
    lora: LoraConfig = _option(LoraConfig, "the adapter")
    features: FeatureConfig = _option(FeatureConfig, "the pass over the pool")
    selection: SelectionConfig = _option(SelectionConfig, "how samples are chosen")
    pruning: PruneConfig = _option(PruneConfig, "what the pool keeps")
    training: TrainConfig = _option(TrainConfig, "the LoRA fit")
    routing: RoutingConfig = _option(RoutingConfig, "the router of strategy switch")
    evaluation: EvalConfig = _option(EvalConfig, "evaluation")
    report: ReportConfig = _option(ReportConfig, "the report")

    @property
    def cache_dir(self) -> Path:
        """``cache``, else ``$ADAPTINF_CACHE``, else ``~/.cache/adaptinf``."""
        return Path(self.cache or os.environ.get("ADAPTINF_CACHE") or "~/.cache/adaptinf").expanduser()

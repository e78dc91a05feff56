"""The bundle of small real datasets: folders ``instruct/<task>.<split>.jsonl.gz`` and ``images/`` under one root."""

from __future__ import annotations

from dataclasses import replace

from adaptinf.config import TaskSpec
from adaptinf.data.sample import Sample
from adaptinf.data.stream import TaskDataset

_SKILL_METRIC_LENGTH = {
    "nlvr": ("visual-reasoning", "exact_match", 8),
    "easy_vqa": ("vqa-attributes", "exact_match", 8),
    "bccd_count": ("counting", "exact_match", 8),
    "bccd_grounding": ("grounding", "iou@0.5", 40),
    "raccoon_grounding": ("grounding", "iou@0.5", 40),
    "grocery_fine": ("fine-grained-recognition", "accuracy", 24),
    "grocery_coarse": ("recognition", "accuracy", 16),
    "grocery_describe": ("image-description", "rouge_l", 128),
    "tux_caption": ("captioning", "rouge_l", 48),
    "tux_caption_multilingual": ("multilingual", "bleu", 64),
    "sroie_kie": ("document-vqa", "token_f1", 64),
    "sroie_ocr": ("ocr", "token_f1", 40),
    "omniglot_alphabet": ("script-recognition", "accuracy", 16),
    "omniglot_pair": ("multi-image", "exact_match", 8),
    "puzzle_vqa": ("abstract-reasoning", "exact_match", 8),
    "p3_classification": ("text-classification", "accuracy", 16),
    "p3_generation": ("text-generation", "rouge_l", 96),
    "p3_paraphrase": ("text-paraphrase", "accuracy", 64),
    "p3_qa": ("text-qa", "token_f1", 48),
    "self_instruct_seed": ("text-instruction", "rouge_l", 128),
    "gsm8k": ("math", "number", 256),
    "mgsm": ("multilingual-math", "number", 8),
    "bbh": ("text-reasoning", "accuracy", 48),
    "esnli_explain": ("explanation", "rouge_l", 64),
    "onestop_simplify": ("simplification", "sari", 96),
    "emotion_dialogue": ("emotional-dialogue", "rouge_l", 64),
    "headline_constraint": ("headline-constraint", "rouge_l", 32),
    "question_generation": ("question-generation", "rouge_l", 48),
    "haiku": ("poetry", "rouge_l", 48),
    "covidfact": ("fact-checking", "exact_match", 8),
    "covid_qa": ("domain-qa", "token_f1", 96),
    "scitldr": ("tldr", "rouge_l", 96),
}

BUNDLE = {
    name: TaskSpec(
        name=name,
        skill=skill,
        metric=metric,
        max_new_tokens=max_new_tokens,
        train=[f"instruct/{name}.train.jsonl.gz"],
        test=[f"instruct/{name}.test.jsonl.gz"],
    )
    for name, (skill, metric, max_new_tokens) in _SKILL_METRIC_LENGTH.items()
}
"""Every task of the bundle by name. Not all are worth a place in a stream: p3_classification has a single answer."""

BUNDLE_ORDER = (
    "easy_vqa",
    "p3_paraphrase",
    "grocery_coarse",
    "onestop_simplify",
    "nlvr",
    "tux_caption_multilingual",
    "bccd_grounding",
    "esnli_explain",
    "omniglot_pair",
    "covidfact",
    "bccd_count",
    "bbh",
    "sroie_ocr",
    "mgsm",
    "tux_caption",
    "p3_qa",
)
"""The default stream: 16 tasks of 16 skills, pictures and text in turn, so that no skill is followed by a like one."""

_INSTRUCTED = ("esnli_explain", "onestop_simplify", "emotion_dialogue", "scitldr")
"""Tasks whose first line is the instruction, and whose others are the input; other prompts are of many templates."""


def with_instructions(task: TaskDataset) -> TaskDataset:
    """The samples of such a task with ``meta["instruction"]`` and ``meta["source_text"]``, the input."""
    if task.name not in _INSTRUCTED:
        return task
    return replace(task, train=tuple(map(_instructed, task.train)), test=tuple(map(_instructed, task.test)))


def _instructed(sample: Sample) -> Sample:
    instruction, _, text = sample.prompt.partition("\n")
    return replace(sample, meta={**sample.meta, "instruction": instruction, "source_text": text})

"""DCLM's CORE and EXTENDED: means over tasks of accuracies above chance (Li et al. 2024, arXiv 2406.11794).

A task's accuracy a with chance b counts as (a - b) / (1 - b). Version 2 corrected the chance of twelve tasks, so a
score of one version says nothing beside one of the other: every score carries its version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..core.errors import DataError, nearest

Version = Literal["v1", "v2"]
CHANCE: dict[str, float] = {
    "mmlu_zeroshot": 0.25,
    "hellaswag_zeroshot": 0.25,
    "jeopardy": 0,
    "triviaqa_sm_sub": 0,
    "gsm8k_cot": 0,
    "agi_eval_sat_math_cot": 0,
    "aqua_cot": 0,
    "svamp_cot": 0,
    "bigbench_qa_wikidata": 0,
    "arc_easy": 0.25,
    "arc_challenge": 0.25,
    "mmlu_fewshot": 0.25,
    "bigbench_misconceptions": 0.5,
    "copa": 0.5,
    "siqa": 0.5,
    "commonsense_qa": 0.403,
    "piqa": 0.5,
    "openbook_qa": 0.25,
    "bigbench_novel_concepts": 0.25,
    "bigbench_strange_stories": 0.5,
    "bigbench_strategy_qa": 0.5,
    "lambada_openai": 0,
    "hellaswag": 0.25,
    "winograd": 0.5,
    "winogrande": 0.5,
    "bigbench_conlang_translation": 0,
    "bigbench_language_identification": 0.25,
    "bigbench_conceptual_combinations": 0.33,
    "bigbench_elementary_math_qa": 0.25,
    "bigbench_dyck_languages": 0,
    "agi_eval_lsat_ar": 0.25,
    "bigbench_cs_algorithms": 0,
    "bigbench_logical_deduction": 0.25,
    "bigbench_operators": 0,
    "bigbench_repeat_copy_logic": 0,
    "simple_arithmetic_nospaces": 0,
    "simple_arithmetic_withspaces": 0,
    "math_qa": 0.2,
    "logi_qa": 0.25,
    "pubmed_qa_labeled": 0,
    "squad": 0,
    "agi_eval_lsat_rc": 0.25,
    "agi_eval_lsat_lr": 0.25,
    "coqa": 0,
    "bigbench_understanding_fables": 0.25,
    "boolq": 0.62,
    "agi_eval_sat_en": 0.25,
    "winogender_mc_female": 0.5,
    "winogender_mc_male": 0.5,
    "enterprise_pii_classification": 0.5,
    "bbq": 0.5,
    "gpqa_main": 0.25,
    "gpqa_diamond": 0.25,
}
"""Accuracy of guessing, in version 2, of the 53 tasks of EXTENDED."""
CHANGED: dict[str, float] = {
    "siqa": 0.333,
    "commonsense_qa": 0.2,
    "bigbench_novel_concepts": 0.2,
    "bigbench_language_identification": 0.091,
    "bigbench_conceptual_combinations": 0.25,
    "bigbench_elementary_math_qa": 0.2,
    "agi_eval_lsat_ar": 0.2,
    "bigbench_logical_deduction": 0.2,
    "logi_qa": 0.27,
    "agi_eval_lsat_rc": 0.2,
    "agi_eval_lsat_lr": 0.2,
    "bigbench_understanding_fables": 0.2,
}
"""Of those tasks, in version 1, where it was another."""
CORE = (
    "hellaswag_zeroshot",
    "jeopardy",
    "bigbench_qa_wikidata",
    "arc_easy",
    "arc_challenge",
    "copa",
    "commonsense_qa",
    "piqa",
    "openbook_qa",
    "lambada_openai",
    "hellaswag",
    "winograd",
    "winogrande",
    "bigbench_language_identification",
    "bigbench_dyck_languages",
    "agi_eval_lsat_ar",
    "bigbench_cs_algorithms",
    "bigbench_operators",
    "bigbench_repeat_copy_logic",
    "squad",
    "coqa",
    "boolq",
)
"""The 22 tasks of CORE, whose accuracy varies little from run to run."""


@dataclass(frozen=True)
class CoreScore:
    """CORE or EXTENDED of a model.

    Args:
        name: "CORE" or "EXTENDED".
        version: of the chances.
        value: the mean of the tasks above chance; None: a task is missing.
        missing: tasks without which it is not defined.

    Example:
        >>> str(core_score(dict.fromkeys(CORE, 1.0)))
        'CORE v2 1.0000'
    """

    name: str
    version: Version
    value: float | None
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = f"{self.value:.4f}" if self.value is not None else f"not defined: lacks {', '.join(self.missing)}"
        return f"{self.name} {self.version} {shown}"


def above_chance(task: str, accuracy: float, version: Version = "v2") -> float:
    """An accuracy as a share of what guessing leaves: 0 by chance, 1 where all is right.

    Args:
        task: its name in ``CHANCE``.
        accuracy: in [0, 1].
        version: of the chances.

    Raises:
        DataError: no such task, or no such accuracy.
    """
    if task not in CHANCE:
        raise DataError(f"is no task of EXTENDED; {nearest(task, CHANCE, listing=False)}".rstrip("; "), where=task)
    if not 0 <= accuracy <= 1:
        raise DataError(f"its accuracy is {accuracy}", where=task, fix="give shares in [0, 1], not per cent")
    chance = CHANGED.get(task, CHANCE[task]) if version == "v1" else CHANCE[task]
    return (accuracy - chance) / (1 - chance)


def core_score(accuracies: Mapping[str, float | None], version: Version = "v2", *, extended: bool = False) -> CoreScore:
    """CORE (22 tasks) or EXTENDED (53) from accuracies by task; tasks of neither are passed over.

    Args:
        accuracies: task -> a share in [0, 1]; None counts as missing.
        version: of the chances.
        extended: EXTENDED instead of CORE.

    Example:
        >>> core_score({"copa": 0.8}).value is None
        True
    """
    tasks = tuple(CHANCE) if extended else CORE
    known = {task: value for task in tasks if (value := accuracies.get(task)) is not None}
    missing = tuple(task for task in tasks if task not in known)
    values = [above_chance(task, value, version) for task, value in known.items()]
    mean = None if missing else sum(values) / len(values)
    return CoreScore("EXTENDED" if extended else "CORE", version, mean, missing)

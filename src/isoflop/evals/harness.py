"""lm-evaluation-harness on our models: its model class, and local tasks measured with it, without any network.

Needs the package ``lm_eval`` (the extra ``eval``).
"""

# ruff: noqa: E402  (its libraries read the environment when they are imported)

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Any

for _name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "DISABLE_MULTIPROC"):
    os.environ.setdefault(_name, "1")  # nothing is fetched, and bootstrapping starts no processes

import datasets
from lm_eval.api.model import TemplateLM
from lm_eval.config.task import TaskConfig
from lm_eval.evaluator import evaluate
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ..core.contracts import Cacheable, Tokenizer
from ..core.errors import IsoflopError, UsageError, nearest, trace
from ..core.rng import Rng
from ..decode.decoders.sample import SamplePart
from ..decode.text import SampleText
from ..store.harness import HarnessMetric, HarnessResult
from .harness_tasks import HarnessTask
from .scoring import PairScorer

VERSION = version("lm_eval")
BOOTSTRAP = 1000
"""Resamples of a standard error that has no formula: it is known to 2 % then."""
SEED = 1234
"""The harness' own, by which examples are drawn."""
_DRAWING = {"top_k": "top_k", "top_p": "top_p", "min_p": "min_p", "typical_p": "typical"}
"""Keys of a task's generation -> our decoder's."""


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """A model of ours as lm-evaluation-harness knows models: give it to ``lm_eval.simple_evaluate(model=...)``.

    All kinds of requests are answered: log-likelihoods of continuations (multiple choice among them) and of whole
    texts, and text that is generated. Contexts that several requests share go through the model once. Texts begin as
    with the harness' own class for Hugging Face models on an exported directory, so that both give the same numbers:
    with what a published tokenizer puts there, if anything; with ours as in training, with the end of another text.

    Args:
        model: a causal model.
        tokenizer: of its ids.
        length: tokens that it sees at most; longer contexts lose their beginning.
        batch: requests that are worked on together at most.
        device: where the model is.
        begins: whether texts begin so; otherwise nothing is put before a context.
        seed: of generated text, where a task draws it.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        length: int,
        batch: int = 32,
        device: str = "cpu",
        begins: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.model, self.ids, self.max_length, self.batch, self.begins = model, tokenizer, length, batch, begins
        self.scorer = PairScorer(model, length=length, batch=batch, device=device)
        self.seed = seed

    @property
    def eot_token_id(self) -> int:
        return self.ids.eot

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has no context."""
        bos: int | None = getattr(self.ids, "bos", None)
        return self.ids.eot if bos is None else bos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids of a text; with those that begin it unless they are not wanted."""
        ids: list[int] = self.ids.encode(string).tolist()
        if add_special_tokens is False or not self.begins:
            return ids
        before: list[int] = list(getattr(self.ids, "before", (self.ids.eot,)))
        return ids if ids[: len(before)] == before else before + ids

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        scores = self.scorer.score([(context, new) for _, context, new in requests])
        return [(score.logprob, score.greedy) for score in scores]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, each token predicted once, in windows as long as the model sees."""
        pairs: list[tuple[list[int], list[int]]] = []
        places: list[int] = []
        for place, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0])
            windows = get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, context_len=1)
            pairs += [make_disjoint_window(window) for window in windows]
            places += [place] * (len(pairs) - len(places))
        totals = [0.0] * len(requests)
        for place, score in zip(places, self.scorer.score(pairs), strict=True):
            totals[place] += score.logprob
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Text that follows each context, up to a stop string or the most tokens that its task wants."""
        if not isinstance(self.model, Cacheable):
            raise UsageError("the model keeps no cache, so it writes no text", where="generate_until")
        alike: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            alike.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(place)
        found = [""] * len(requests)
        for places in alike.values():
            written = _Writing.of(requests[places[0]].args[1], self)
            texts = written.texts([requests[place].args[0] for place in places])
            for place, text in zip(places, texts, strict=True):
                found[place] = text
        return found


@dataclass(frozen=True)
class _Writing:
    """How the answers to requests of one task are written."""

    model: HarnessModel
    decoder: SamplePart
    budget: int
    stops: tuple[str, ...]

    @classmethod
    def of(cls, asked: Mapping[str, Any], model: HarnessModel) -> _Writing:
        """From a task's ``generation_kwargs``."""
        settings: dict[str, Any] = dict(normalize_gen_kwargs(dict(asked)))
        budget, stops = settings.pop("max_gen_toks"), settings.pop("until", None) or []
        temperature = settings.pop("temperature", 0.0) or 0.0
        drawn = settings.pop("do_sample", False)
        unknown = settings.keys() - _DRAWING.keys() - {"repetition_penalty"}
        if unknown:
            legal = ("until", "max_gen_toks", "do_sample", "temperature", "repetition_penalty", *_DRAWING)
            first = min(unknown)
            raise UsageError(f"no {first!r} is known here", where="generation_kwargs", fix=nearest(first, legal))
        if budget >= model.max_length:
            what = f"{budget} new tokens and a prompt are more than the {model.max_length} that the model sees"
            raise UsageError(what, where="generation_kwargs", fix="set max_gen_toks lower")
        chosen = {_DRAWING.get(key, key): value for key, value in settings.items()}
        if not drawn:
            chosen = {key: value for key, value in chosen.items() if key == "repetition_penalty"}
        decoder = SamplePart(
            temperature=(temperature or 1.0) if drawn else 0.0,
            stop=model.ids.eot,
            ids=model.ids.vocab_size,
            batch=model.batch,
            **chosen,
        )
        return cls(model, decoder, budget, tuple([stops] if isinstance(stops, str) else stops))

    def texts(self, contexts: Sequence[str]) -> list[str]:
        """The text after each context; the longest contexts are worked on first."""
        model, room = self.model, self.model.max_length - self.budget
        prompts = [(model.tok_encode(context) or [model.prefix_token_id])[-room:] for context in contexts]
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), prompts[i]))
        said = [SampleText(model.ids, prompts[i], self.stops) for i in order]

        def listen(prompt: int, sample: int, token: int) -> bool:
            said[prompt].add(token)
            return said[prompt].stopped

        decoder = self.decoder.build()
        for each in decoder.complete(
            model.model, [prompts[i] for i in order], self.budget, Rng(model.seed), listen=listen
        ):
            said[each.prompt].finish()
        found = dict(zip(order, said, strict=True))
        return [found[i].text for i in range(len(contexts))]


def measure(model: Any, tasks: Iterable[HarnessTask], *, limit: int | None = None) -> list[HarnessResult]:
    """Measure a model on local tasks by lm-evaluation-harness.

    Args:
        model: a ``HarnessModel``, or any model of the harness.
        tasks: as ``harness_tasks.read_task`` reads them.
        limit: only so many items of each task; default: all.

    Raises:
        UsageError: a task has a key that the harness does not know, or it cannot make or measure the task.
    """
    return [_measured(model, task, limit) for task in tasks]


def _measured(model: Any, task: HarnessTask, limit: int | None) -> HarnessResult:
    legal = {field.name for field in fields(TaskConfig)}
    for key in task.config:
        if key not in legal:
            raise UsageError(f"{key}: the harness knows no such key", where=task.name, fix=nearest(key, legal))
    config = {"num_fewshot": 0, **task.config, "custom_dataset": lambda **_: _datasets(task)}
    with _quiet():
        try:
            loaded = TaskManager(include_defaults=False).load([config])
            for each in loaded["tasks"].values():
                each.set_fewshot_seed(seed=SEED)
            found = evaluate(model, loaded, limit=limit, bootstrap_iters=BOOTSTRAP, log_samples=False)
        except IsoflopError:
            raise
        except Exception as error:
            trace()
            what = f"the harness cannot measure it ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
            raise UsageError(what, where=task.name, fix="compare its YAML file with docs/guide/evaluate.md") from error
    return _result(task, found, limit)


def _datasets(task: HarnessTask) -> Any:
    return datasets.DatasetDict({split: datasets.Dataset.from_list(list(rows)) for split, rows in task.splits.items()})


@contextmanager
def _quiet() -> Any:
    """What the harness tells of its progress is no output of ours."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
    finally:
        logger.setLevel(before)


def _result(task: HarnessTask, found: Mapping[str, Any], limit: int | None) -> HarnessResult:
    figures, better = found["results"][task.name], found["higher_is_better"][task.name]
    metrics: dict[str, HarnessMetric] = {}
    for key, value in figures.items():
        name, comma, chosen = key.partition(",")
        if not comma or name.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = figures.get(f"{name}_stderr,{chosen}")
        metrics[name if chosen == "none" else f"{name} ({chosen})"] = HarnessMetric(
            value=float(value),
            stderr=float(error) if isinstance(error, int | float) else None,
            higher_is_better=better.get(name),
        )
    return HarnessResult(
        task=task.name,
        version=str(found["versions"].get(task.name, "")),
        form=task.config.get("output_type", "generate_until"),
        samples=int(found["n-samples"][task.name]["effective"]),
        shots=int(found["n-shot"].get(task.name, 0)),
        limit=limit,
        metrics=metrics,
        lm_eval=VERSION,
        digest=task.digest,
    )

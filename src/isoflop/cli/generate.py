"""The verb that writes text with a model: one prompt, or a file of them."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperCommand

from ..core.errors import UsageError
from ..core.reading import user_path
from ..report.text import duration
from .app import app
from .common import DEFAULT_ROOT, Json, Root, emit
from .prompts import STANDARD, SampleFile, prompts_of, text_of_stdin
from .training import Device, Threads, usable, use_threads, warn

if TYPE_CHECKING:
    from pathlib import Path

    from ..core.contracts import Completion, DecoderPart, Tokenizer
    from ..train.restore import Trained

SAMPLE = "sample"
"""The default decoder of models that write from left to right."""
FILL = "top_probability"
"""That of models that fill in what is hidden."""
GROW = "insertion"
"""That of models that insert tokens, too."""
INFILL = "infill=true"
"""What ``--infill`` stands for among the changes of a decoder, though it is none of its fields."""
_GAP = re.compile(r"<gap(?::([1-9][0-9]*))?>")
"""Where a prompt is to be filled in, and with how many tokens."""
_NO_GAP = re.compile(r"<gap(?![A-Za-z])(?!(?::[1-9][0-9]{0,6})?>)[^<>]{0,20}>?")
"""What was meant to be one, most likely."""
_WITHOUT_ZERO = re.compile(r"^([+-]?)\.(?=[0-9])")
"""The beginning of a number that TOML would not take, as .7."""
EVERY = 2.0
"""Seconds between two lines of progress."""


class _Generate(TyperCommand):
    """A command with a flag for each field of its decoder: ``--top-k 5`` is short for the decoder's ``top_k = 5``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = {name for param in self.params for name in param.opts}
        named = _decoder(args)
        known = _flags(named) if named else _flags(FILL) | _flags(SAMPLE)
        flags = {flag: name for flag, name in known.items() if flag not in own}
        return super().parse_args(ctx, _rewritten(args, {**flags, "--infill": "infill"}))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        own = {name for param in self.params for name in param.opts}
        fields = _fields(SAMPLE)
        shown = {flag: fields[name] for flag, name in _flags(SAMPLE).items() if flag not in own}
        width = max(map(len, shown))
        typer.echo(" --infill fills in the prompt's gaps: <gap:5> are five tokens, <gap> as many as --tokens says.")
        typer.echo(" It needs a model that was trained to fill in (objective masked).\n")
        typer.echo(f" Fields of the decoder {SAMPLE}; those of another --decoder are flags in the same way:\n")
        for flag, field in shown.items():
            typer.echo(f"   {flag:<{width}}  {field.description}")


def _decoder(args: list[str]) -> str:
    """The decoder that a command line names; "" if it names none."""
    given = [after for a, after in pairwise(args) if a == "--decoder"]
    given += [a.partition("=")[2] for a in args if a.startswith("--decoder=")]
    return next((each for each in reversed(given) if not _CHANGE.match(each)), "")


def _flags(decoder: str) -> dict[str, str]:
    """The fields of a decoder by their flags."""
    return {f"--{name.replace('_', '-')}": name for name in _fields(decoder)}


def _rewritten(args: list[str], flags: dict[str, str]) -> list[str]:
    """The arguments with ``--decoder field=value`` for each of the flags. A switch may go without a value."""
    found, waiting = list[str](), list(args)
    while waiting:
        arg = waiting.pop(0)
        flag, equals, value = arg.partition("=")
        if arg == "--":
            return [*found, arg, *waiting]
        if flag not in flags:
            found.append(arg)
            continue
        if not equals and flag == "--infill":
            value = "true"
        elif not equals:
            switch = not waiting or waiting[0].startswith("--")
            value = "true" if switch else waiting.pop(0)
        value = _WITHOUT_ZERO.sub(r"\g<1>0.", value)
        found += ["--decoder", f"{flags[flag]}={value}"]
    return found


_CHANGE = re.compile(r"[a-z_]+=")
"""How a change of the decoder begins, and neither its name nor its table does."""


def _fields(decoder: str) -> dict[str, Any]:
    """The fields of the decoder that a text names; the default one's if there is none such, which is told later."""
    from ..core.registry import get, names
    from ..core.toml import value_of

    value = value_of(decoder)
    name = value.get("name") if isinstance(value, dict) else value
    return dict(get("decoder", name if name in names("decoder") else SAMPLE).model_fields)


@dataclass(frozen=True)
class _Task:
    """What is to be written.

    Args:
        found: model and tokenizer.
        decoder: how.
        budget: most new tokens of a sample.
        seed: of the draws.
        stops: strings that end a sample.
        infill: prompts have gaps, which are filled in.
    """

    found: Trained
    decoder: DecoderPart
    budget: int
    seed: int
    stops: tuple[str, ...]
    infill: bool = False

    @property
    def tokenizer(self) -> Tokenizer:
        assert self.found.tokenizer is not None
        return self.found.tokenizer

    @property
    def samples(self) -> int:
        return int(getattr(self.decoder, "samples", 1))

    def run(self, prompts: Sequence[str], first: int = 0, aloud: bool = False) -> Iterator[dict[str, Any]]:
        """A record of each sample of the prompts from number ``first`` on; with ``aloud`` its text is printed, too."""
        from ..core.rng import Rng
        from ..decode.text import SampleText

        if self.infill:
            yield from self._filled(prompts, first, aloud)
            return
        encoded = [[*self._beginning(), *self._ids(prompt)] for prompt in prompts[first:]]
        self._check(encoded)
        texts: dict[tuple[int, int], SampleText] = {}

        def listen(prompt: int, sample: int, token: int) -> bool:
            known = texts.get((prompt, sample))
            text = known or texts.setdefault(
                (prompt, sample), SampleText(self.tokenizer, encoded[prompt - first], self.stops)
            )
            new = text.add(token)
            if aloud and new:
                typer.echo(new, nl=False)
            return text.stopped

        decoder, source = self.decoder.build(self.found.ctx), encoded if len(prompts) == 1 else iter(encoded)
        for each in decoder.complete(self.found.model, source, self.budget, Rng(self.seed), first=first, listen=listen):
            text = texts.pop((each.prompt, each.sample), None) or SampleText(
                self.tokenizer, encoded[each.prompt - first]
            )
            rest = text.finish()
            if aloud:
                typer.echo(rest)
            yield _record(each, prompts[each.prompt], text.text)

    def _filled(self, prompts: Sequence[str], first: int, aloud: bool) -> Iterator[dict[str, Any]]:
        """A record of each sample of prompts with gaps."""
        from ..core.rng import Rng

        templates = [self._template(prompt, number) for number, prompt in enumerate(prompts[first:], first)]
        self._check(templates)
        decoder: Any = self.decoder.build(self.found.ctx)
        for each in decoder.infill(self.found.model, iter(templates), Rng(self.seed), first=first):
            prompt, left, gaps = prompts[each.prompt], list(each.ids), list[str]()
            for size in self._grown(prompt, each.gaps) if each.gaps else self._sizes(prompt):
                gaps.append(self.tokenizer.decode(left[:size]))
                left = left[size:]
            waiting = iter(gaps)
            text = _GAP.sub(lambda found, waiting=waiting: next(waiting), prompt)  # type: ignore[misc]
            if aloud:
                typer.echo(text)
            yield _record(each, prompt, text) | {"gaps": gaps}

    def _sizes(self, prompt: str) -> list[int]:
        """Tokens of each gap."""
        return [int(found[1] or self.budget) for found in _GAP.finditer(prompt)]

    def _grown(self, prompt: str, sizes: Sequence[int]) -> Iterator[int]:
        """Tokens of each gap, where a model chose their numbers: of gaps that touch, the first one has them all."""
        left = iter(sizes)
        yield next(left)
        for piece in _GAP.split(prompt)[2:-1:2]:
            yield next(left) if self._ids(piece) else 0

    def _template(self, prompt: str, number: int) -> list[int | None]:
        """The ids of a prompt, None for each token of a gap."""
        sizes, broken = self._sizes(prompt), _NO_GAP.search(prompt)
        if not sizes or broken:
            fix = "mark one by <gap:5> (five tokens, or at most so many) or <gap> (as many as --tokens says)"
            what = f"{broken[0]!r} is no gap" if broken else "has no gap to fill in"
            raise UsageError(what, where=f"prompt {number}", fix=fix)
        template: list[int | None] = list(self._beginning())
        for piece, size in zip(_GAP.split(prompt)[::2], [*sizes, 0], strict=True):
            template += [*self._ids(piece), *[None] * size]
        return template

    def _ids(self, text: str) -> list[int]:
        """The ids of a piece of text, without what comes before every text."""
        from ..data.tokenizing import beginning

        ids: list[int] = self.tokenizer.encode(text).tolist()
        before = list(beginning(self.tokenizer))
        return ids[len(before) :] if before and ids[: len(before)] == before else ids

    def _beginning(self) -> list[int]:
        """What the model saw before each text in training."""
        from ..core.contracts import PosesPuzzles
        from ..data.tokenizing import as_prompt

        filling = self.found.ctx.filling
        whole = filling is not None and not filling.shifted and PosesPuzzles in self.found.recipe.source.provides
        return [] if whole else as_prompt(self.tokenizer, "")

    def _check(self, encoded: Sequence[Sequence[int | None]]) -> None:
        """Warn of texts that are longer than those that the model was trained on."""
        reach, filling = self.found.reach, self.found.ctx.filling
        grows = filling is not None and filling.times > 0  # how much comes is the model's to say
        length = max((sum(i is not None for i in each) if grows else len(each) for each in encoded), default=0)
        which = "the prompt has" if len(encoded) == 1 else "the longest prompt has"
        if filling is not None and not grows and not self.infill:
            length, which = length + self.budget, "prompt and sample are"
        if length > reach:
            warn(f"{which} {length:,} tokens, and the model was trained on {reach:,} at a time: expect worse text")

    def job(self, run: str) -> str:
        """A digest of all that decides the text that follows a prompt."""
        from ..core.digests import digest

        fields = {**self.decoder.model_dump(mode="json"), "batch": None}  # which changes nothing
        facts = [run, self.found.recipe.hash, self.found.step, fields, self.budget, self.seed, self.stops]
        return digest([*facts, "infill"] if self.infill else facts)[:16]


def _record(each: Completion, prompt: str, text: str) -> dict[str, Any]:
    found: dict[str, Any] = {"index": each.prompt, "sample": each.sample, "prompt": prompt, "text": text}
    ended = "stop" if each.ended == "told" else each.ended
    found |= {"tokens": len(each.ids), "ended": ended}
    found |= {"calls": each.calls, "flops": each.cost.flops} if each.calls else {}
    found |= {"figures": dict(each.figures)} if each.figures else {}
    return found | ({"logprobs": each.logprobs} if each.logprobs else {})


@app.command(cls=_Generate)
def generate(
    run: Annotated[str, typer.Argument(help="A run's directory, name or hash, or a Hugging Face directory.")],
    prompt: Annotated[str | None, typer.Option("--prompt", help="Text to go on from; - reads standard input.")] = None,
    prompts: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--prompts",
            help='A file of JSON lines {"prompt": ...}, and one for the samples, which is gone on with if it is there '
            "already; - is standard input or output.",
            metavar="IN OUT",
        ),
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Most tokens to generate.")] = 200,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", help="A string that ends a sample and is no part of it; repeatable.")
    ] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on beyond the end of the text.")] = False,
    decoder: Annotated[
        list[str] | None,
        typer.Option("--decoder", help="Decoder part, as name or inline TOML table, or a field=value of it."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the drawn tokens.")] = 0,
    root: Root = DEFAULT_ROOT,
    threads: Threads = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Write text with a run's newest checkpoint, or with a published model."""
    from ..core.slots import part_from

    infill = INFILL in (decoder or [])
    named, changes = _chosen([each for each in decoder or [] if each != INFILL])
    if named:  # what is wrong with it is said before a model is read
        part_from("decoder", named, *changes)
    if prompt is not None and prompts is not None:
        raise UsageError("--prompt and --prompts exclude each other", where="generate", fix="use one of them")
    many = None if prompts is None else prompts_of(prompts[0])
    use_threads(threads)
    found = usable(run, root, device)
    filling = found.ctx.filling
    default = SAMPLE if filling is None else GROW if filling.times else FILL
    chosen = cast("DecoderPart", part_from("decoder", named or default, *changes))
    if unmet := found.recipe.unmet(chosen):
        raise UsageError("; ".join(unmet), where=run, fix="choose another --decoder (isoflop show decoder)")
    if why := chosen.misfit(filling):
        raise UsageError(f"the decoder {chosen.name} {why}", where=run)
    found = _with_others(found, chosen, root, device)
    if infill and stop:
        what = "--stop ends what is written on, and gaps are filled in whole"
        raise UsageError(what, where="--infill", fix="leave one of them out")
    if infill and filling is None:
        what = "writes from left to right, and cannot fill in gaps"
        raise UsageError(what, where=run, fix="train one with objective=masked")
    assert found.tokenizer is not None
    if chosen.stop is None and not ignore_eos:
        chosen = chosen.model_copy(update={"stop": found.tokenizer.eot})
    if chosen.ids is None:  # what its objective added stands for no text
        chosen = chosen.model_copy(update={"ids": found.tokenizer.vocab_size})
    task = _Task(found, chosen, tokens, seed, tuple(stop or ()), infill)
    if many is None or prompts is None:
        _show(task, text_of_stdin() if prompt == STANDARD else prompt or "", json)
    else:
        _write(task, many, prompts[1], task.job(run))


def _with_others(found: Trained, decoder: DecoderPart, root: Path, device: str | None) -> Trained:
    """The model with those that its decoder wants beside it; UsageError if one's ids stand for other text."""
    from ..core.tokenizer import disagreement

    models: dict[str, Any] = {}
    for name, run in decoder.others.items():
        other = usable(run, root, device)
        assert found.tokenizer is not None
        assert other.tokenizer is not None
        if differs := disagreement(found.tokenizer, other.tokenizer):
            what = f"its vocabulary is another than the model's ({differs})"
            raise UsageError(what, where=f"decoder.{name}: {run}", fix="name a run with the model's tokenizer")
        if other.ctx.filling is not None:
            raise UsageError("fills in what is hidden, and cannot write on", where=f"decoder.{name}: {run}")
        models[name] = other.model
    return replace(found, ctx=found.ctx.having(models={**found.ctx.models, **models})) if models else found


def _chosen(given: list[str]) -> tuple[str, list[str]]:
    """The decoder that is named last, "" if none is, and the changes to its fields."""
    changes = [each for each in given if _CHANGE.match(each)]
    return next((each for each in given[::-1] if each not in changes), ""), changes


def _show(task: _Task, prompt: str, json: bool) -> None:
    """One prompt: its text as it comes, or JSON: an object, or a list of several samples' objects."""
    if json:
        records = [{k: v for k, v in found.items() if k not in ("index", "sample")} for found in task.run([prompt])]
        emit(records[0] if task.samples == 1 else records)
    elif task.samples == 1:
        typer.echo("" if task.infill else prompt, nl=False)
        sys.stdout.flush()
        for found in task.run([prompt], aloud=True):
            _say_figures(found)
    else:
        for found in task.run([prompt]):
            text = found["text"] if task.infill else prompt + found["text"]
            typer.echo(f"sample {found['sample'] + 1} of {task.samples}:\n{text}\n")
            _say_figures(found)


def _say_figures(found: dict[str, Any]) -> None:
    if "figures" in found:
        told = (f"{value:.3g} {name.replace('_', ' ')}" for name, value in found["figures"].items())
        typer.echo(", ".join(told).replace("flops", "FLOPs"), err=True)
    if "logprobs" in found:
        mean = sum(found["logprobs"]) / len(found["logprobs"])
        typer.echo(f"log-probability {sum(found['logprobs']):.3f}, {mean:.3f} a token", err=True)


def _write(task: _Task, prompts: list[dict[str, Any]], out: str, job: str) -> None:
    """A line of JSON for each sample, to a file or to standard output."""
    texts = [record["prompt"] for record in prompts]
    if out == STANDARD:
        for found in task.run(texts):
            emit({**prompts[found["index"]], **found})
        return
    file, total = SampleFile(user_path(out), job), len(prompts) * task.samples
    with file.opened():
        done = file.done(prompts, task.samples)
        if done:
            typer.echo(f"{out}: {done:,} of {total:,} samples are there already", err=True)
        # Batches begin where they would have begun without a stop: then even the last bits of logits are the same.
        together = int(getattr(task.decoder.build(task.found.ctx), "group", 1))
        first = done // task.samples // together * together
        for place, found in enumerate(_progress(task.run(texts, first), first * task.samples, total)):
            if first * task.samples + place >= done:
                file.write({**prompts[found["index"]], **found})
    typer.echo(f"{out}: {total:,} samples, {total - done:,} of them new")


def _progress(samples: Iterator[dict[str, Any]], before: int, total: int) -> Iterator[dict[str, Any]]:
    """Pass samples on, and say now and then how far they are."""
    start = last = time.monotonic()
    tokens = 0
    for made, found in enumerate(samples, 1):
        tokens, now = tokens + found["tokens"], time.monotonic()
        if now - last > EVERY:
            left = duration((total - before - made) * (now - start) / made)
            speed = f"{tokens / (now - start):,.0f} tokens/s"
            typer.echo(f"{before + made:,}/{total:,} samples  {left} left  {speed}", err=True)
            last = now
        yield found

"""What a study comes to: a line for each arm with what weakens it, its axes, and what else a reader must know."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ..core.documents import leaves
from ..core.roles import numel
from ..ledger.ledger import CHARGED
from ..store.results import Axis, MultiplierRow, RunRow, Tuning
from .multiplier import AXES, Facts, crossing, illegal, multipliers
from .provenance import Environments
from .study import OWN, Study
from .wording import NOUNS, amount, interval


@dataclass
class Verdict:
    """A study's multipliers on every axis that allows them, and why the others do not.

    Attributes:
        rows: every arm at every rung on every axis that is legal for it; those that charge tuning, too.
        refusals: axis -> why no arm has a multiplier on it.
        arm_refusals: arm -> axis -> why this arm alone has none.
        notes: what could not be charged.

    Example:
        >>> Verdict().rows
        []
    """

    rows: list[MultiplierRow] = field(default_factory=list)
    refusals: dict[str, str] = field(default_factory=dict)
    arm_refusals: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def judge(study: Study, rows: Sequence[RunRow], environments: Environments) -> Verdict:
    """The multipliers of a study whose runs are done; an axis that one arm makes illegal is dropped for that arm."""
    found, baseline, scale = Verdict(), study.baseline, study.scale
    evaluated = [row for row in rows if row.role == "evaluation"]
    for axis in AXES:
        reasons = _refused(study, axis, evaluated, study.arms, environments)
        legal = [arm for arm in study.arms if arm not in reasons]
        if not legal:
            found.refusals[axis] = "; ".join(dict.fromkeys(reasons.values()))
            continue
        for arm, reason in reasons.items():
            found.arm_refusals.setdefault(arm, {})[axis] = reason
        found.rows += multipliers(_of(evaluated, baseline, *legal), baseline=baseline, axis=axis, scale=scale)
        reasons = _refused(study, axis, rows, legal, environments)
        for reason in dict.fromkeys(reasons.values()):
            found.notes.append(f"tuning cannot be charged on {axis}: {reason}")
        legal = [arm for arm in legal if arm not in reasons]
        charges = {arm: _charge(rows, arm, axis) for arm in (baseline, *legal)}
        among = _of(evaluated, *charges)
        found.rows += multipliers(among, baseline=baseline, axis=axis, tuning=charges, scale=scale)
    return found


def headline(study: Study, rows: Sequence[MultiplierRow], tunings: Sequence[Tuning]) -> str:
    """The verdict: a line for each arm, its lowest rung on FLOPs with the tokens beside it and what weakens it.

    A line behind them says what weakens the baseline, and so every arm's multiplier; a last one, once for all optima
    at an edge, what would try further.
    """
    lines = [_joined(_line(study, rows, arm), _weaknesses(study, tunings, arm)) for arm in study.arms]
    weak = [_edge(study, tuning) for tuning in tunings if tuning.arm == study.baseline and tuning.edge]
    if weak:
        lines.append(f"{study.baseline} may be better than it was made here: {'; '.join(weak)}")
    remedies = dict.fromkeys(_further(study, tuning) for tuning in tunings if tuning.edge)
    if told := [remedy for remedy in remedies if remedy]:
        lines.append(f"to try further: {'; '.join(told)}")
    return "\n".join(lines)


def facts_of(study: Study, arm: str) -> Facts:
    """What decides on which axes an arm can be compared."""
    recipe = study.base(arm)
    train = recipe.train
    return Facts(
        parameters=numel(recipe.model.shapes(recipe.vocab_size)),
        tokens_per_step=train.batch * train.length * train.accumulate,
        tokenizer=recipe.tokenizer.model_dump_json() if recipe.source.vocab_size is None else recipe.source.name,
        device=train.device,
    )


def findings(study: Study, rows: Sequence[RunRow], found: Sequence[MultiplierRow]) -> list[str]:
    """What a reader must know besides the headline: divergence, thinner tuning, room below, crossings."""
    notes = []
    for arm in study.everyone:
        lost = [row for row in rows if row.arm == arm and row.role == "evaluation" and row.end is None]
        if lost:
            which = ", ".join(f"rung {row.rung} seed {row.seed}" for row in lost)
            notes.append(f"{arm} diverged at {which}: diverged runs never rank")
    if study.tuning.top_points:
        notes.append(
            f"{study.baseline} was tuned at its top rung with {study.tuning.top_points} values instead of "
            f"{len(study.grid(study.baseline))}"
        )
    if above := [arm for arm in study.arms if max(study.rungs_of(arm)) > 0]:
        notes.append(
            f"{', '.join(above)}: above the lowest rung {study.tuning.hyper} is still the lowest rung's, while "
            f"{study.baseline} was tuned again at its top: that can only favour {study.baseline}"
        )
    notes += [change for arm in study.arms if (change := _unsaid(study, arm))]
    for arm in study.arms:
        short = [row for row in found if row.arm == arm and not row.all_in and row.censored in ("below", "mixed")]
        if short and study.rungs_of(arm) == (0,):
            notes.append(
                f"{arm} ran only at rung 0, below which {study.baseline} has no rung: no more than a bound is known on "
                f"{', '.join(row.axis for row in short)}; arms.{arm}.rungs = [1] would leave room"
            )
        notes += [turn for axis in AXES if (turn := _crossing(study, found, arm, axis))]
    return notes


def _unsaid(study: Study, arm: str) -> str:
    """What an arm's recipe changes beyond its overrides: keys that both have, with other values, that none names."""
    ours, theirs = (dict(leaves(study.base(each).to_json())) for each in (arm, study.baseline))
    written = [change.partition("=") for change in study.arms[arm].overrides]
    changed = [
        key
        for key, value in ours.items()
        if key in theirs
        and theirs[key] != value
        and key not in (*OWN, *study.tuning.knobs, study.tuning.hyper)
        and key[-5:] != ".name"
    ]
    named = {path.strip() for path, _, _ in written}
    silent = [
        f"{key} from {theirs[key]} to {ours[key]}"
        for key in changed
        if key not in named and not any(key.rpartition(".")[2] in value for _, _, value in written)
    ]
    return f"{arm} changes more than it says: {', '.join(silent)}" if silent else ""


def _refused(
    study: Study, axis: Axis, rows: Sequence[RunRow], arms: Iterable[str], environments: Environments
) -> dict[str, str]:
    """The arms that an axis is illegal for, each beside the baseline alone, with the reason."""
    baseline = study.baseline
    found = {}
    for arm in arms:
        facts = {each: facts_of(study, each) for each in (baseline, arm)}
        if reason := illegal(axis, facts, _of(rows, baseline, arm), baseline, environments):
            found[arm] = reason
    return found


def _of(rows: Sequence[RunRow], *arms: str) -> list[RunRow]:
    return [row for row in rows if row.arm in arms]


def _charge(rows: Sequence[RunRow], arm: str, axis: Axis) -> float:
    """What an arm's trials at the lowest rung spent on an axis, evaluation left out."""
    trials = [row for row in rows if row.role == "tuning" and row.arm == arm and row.rung == 0]
    return sum(row.ledger.get(phase, {}).get(axis, 0) for row in trials for phase in CHARGED)


def _line(study: Study, rows: Sequence[MultiplierRow], arm: str) -> str:
    """What is known of one arm."""
    rung = min(study.arms[arm].rungs)
    own = {row.axis: row for row in rows if row.arm == arm and row.rung == rung and not row.all_in}
    if "flops" not in own:
        return f"{arm} has no multiplier on compute: see the notes"
    if turn := _crossing(study, rows, arm, "flops"):
        return turn
    return own["flops"].sentence + _beside(own.get("tokens"))


def _beside(tokens: MultiplierRow | None) -> str:
    """The multiplier on tokens, for the end of a line."""
    if tokens is None or tokens.value is None:
        return ""
    verdict = "" if tokens.significant else ", not significant"
    return f", and {amount(tokens)} as many tokens ({interval(tokens)}{verdict})"


def _joined(line: str, weaknesses: Iterator[str]) -> str:
    told = "; ".join(weaknesses)
    return f"{line}; but {told}" if told else line


def _weaknesses(study: Study, tunings: Sequence[Tuning], arm: str) -> Iterator[str]:
    """What a reader must hold against one arm's multiplier."""
    ours, theirs = facts_of(study, arm).parameters, facts_of(study, study.baseline).parameters
    if ours != theirs:
        yield (
            f"{arm} has {ours:,} parameters and {study.baseline} {theirs:,}: arms.{arm}.overrides could make them equal"
        )
    yield from (_edge(study, tuning) for tuning in tunings if tuning.arm == arm and tuning.edge)


def _edge(study: Study, tuning: Tuning) -> str:
    """That an optimum lies at the edge of what was tried, and why nobody went on where nothing would help."""
    at = f" at rung {tuning.rung}" if tuning.rung else ""
    why = "" if _further(study, tuning) else ", beyond which not every recipe goes"
    return f"the best {tuning.hyper} of {tuning.arm}{at}, {tuning.chosen:g}, lies at the edge of what was tried{why}"


def _further(study: Study, tuning: Tuning) -> str:
    """The key that would try beyond an edge; "" if there is none."""
    if tuning.hyper != study.tuning.hyper:
        return f"more values of tuning.knobs.{tuning.hyper}"
    thin = study.tuning.top_points if tuning.rung else None
    if thin:
        return "leave tuning.top_points out, for the whole grid at the top rung"
    used = len(tuning.values) - len(study.grid(tuning.arm))
    return "" if used < study.tuning.extensions else f"tuning.extensions={study.tuning.extensions + 1}"


def _crossing(study: Study, rows: Sequence[MultiplierRow], arm: str, axis: Axis) -> str:
    at = crossing([r for r in rows if r.arm == arm and r.axis == axis and not r.all_in], study.ladder.rungs)
    if at is None:
        return ""
    where = f"{at:.3g} {study.ladder.axis}"
    return f"{arm} crosses {study.baseline} in {NOUNS[axis][0]} near {where}: no single multiplier holds"

"""The recipe: the whole description of one run, a frozen object <-> one TOML file. Its hash is its identity."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from .contracts import Linearizing, ModelPart, Treatment
from .device import KINDS, Device
from .digests import canonical_json, digest
from .documents import NONE, Frozen, Later, Section, Worded, leaves
from .errors import RecipeError, nearest
from .references import ModelReference, Reference, Start, completed, identity
from .registry import Part
from .rng import Rng
from .slots import (
    STORED,
    AveragingSlot,
    MetricSlot,
    ModelSlot,
    ObjectiveSlot,
    OptimizerSlot,
    ParametrizationsSlot,
    ScheduleSlot,
    SourceSlot,
    TokenizerSlot,
    TransformSlot,
    opening,
    schema_document,
)
from .toml import TomlDocument, problems_of

Name = Annotated[
    str,
    Worded(
        r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
        "should be 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit",
    ),
]
"""One path component: letters, digits, '.', '_', '-', at most 64, beginning with a letter or digit."""


_REFERENCE = {"anyOf": [{"type": "string"}, {"type": "object", "required": ["run"]}, {"const": NONE}]}
"""JSON schema of what a user writes for another model."""


class Budget(Section):
    """A limit on exactly one axis. A run takes the most whole steps that fit, never more.

    Example:
        >>> budget = Budget(steps=200)
        >>> budget.axis, budget.limit
        ('steps', 200.0)
    """

    example = "{ steps = 200 }"

    flops: PositiveFloat | None = None
    """Model FLOPs of training: forward, backward and optimizer; what is computed again is none of them."""
    steps: PositiveInt | None = None
    """Optimizer steps."""
    tokens: PositiveInt | None = None
    """Predicted tokens."""
    text_bytes: PositiveInt | None = None
    """UTF-8 bytes of the predicted text."""
    seconds: PositiveFloat | None = None
    """Wall-clock seconds of training; only for schedules that need no horizon."""

    @model_validator(mode="after")
    def _one_axis(self) -> Budget:
        given = self._given()
        if len(given) != 1:
            axes = ", ".join(type(self).model_fields)
            found = f"sets {len(given)} axes ({', '.join(given)})" if given else "sets no axis"
            raise ValueError(f"a budget {found}; give exactly one of {axes}, e.g. budget={{steps=200}}")
        return self

    def _given(self) -> list[str]:
        return sorted(axis for axis in self.model_fields_set if getattr(self, axis) is not None)

    @property
    def axis(self) -> str:
        return self._given()[0]

    @property
    def limit(self) -> float:
        return float(getattr(self, self.axis))


def _known_device(device: str) -> str:
    if Device.of(device).kind not in KINDS:
        raise ValueError(f"no such device; {nearest(device, KINDS)}")
    return device


class Train(Section):
    """How the loop runs, whatever the method.

    Example:
        >>> Train(batch=4, length=64).precision
        'fp32'
    """

    example = "{ batch = 8, length = 128 }"

    batch: Annotated[int, Field(ge=1, le=2**20)] = 8
    """Sequences of one micro-batch."""
    length: Annotated[int, Field(ge=1, le=2**24)] = 128
    """Tokens of one sequence that are predicted (the context)."""
    accumulate: Annotated[int, Field(ge=1, le=2**20)] = 1
    """Micro-batches whose gradients are averaged into one step."""
    clip: NonNegativeFloat = 1.0
    """Largest 2-norm of the gradient; 0: no clipping."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: products in bfloat16 on weights and optimizer state kept in fp32."""
    device: Annotated[
        str,
        Worded("[a-z]+(:[0-9]+)?", "should be a device as torch names it: cpu, cuda, cuda:1, mps, xpu"),
        AfterValidator(_known_device),
    ] = "cpu"
    """As torch names it: cpu, cuda, cuda:1, mps, xpu."""
    compile: bool = False
    """Compile the model (10-30 s once on a CPU)."""
    evaluations: Annotated[int, Field(ge=1)] = 4
    """Evaluations, at equal distances in steps, the last at the end."""
    checkpoints: Annotated[int, Field(ge=1)] = 1
    """Checkpoints, at equal distances in steps, the last at the end."""
    keep: PositiveInt = 2
    """Checkpoints kept (the newest)."""
    isolate_documents: Annotated[bool, Later()] = False
    """Whether documents that share a training window do not see each other. Held-out evaluation stays as it is."""
    activation_checkpointing: Annotated[bool, Later()] = False
    """Keep each block's input alone and compute the rest again in the backward pass: less memory, a forward more."""


class Recipe(TomlDocument):
    """One run. Everything but ``name``, and where other models lie, enters its hash.

    A recipe is what one trains, stores and compares: two runs with equal hashes are the same run, and a finished one is
    not made again. ``load`` reads a file or a shipped recipe, ``from_toml`` a text, ``having`` changes fields.

    Example:
        >>> recipe = Recipe.from_json({"source": "stdlib", "model": "transformer", "budget": {"steps": 200}})
        >>> recipe.optimizer.name, recipe.having(name="again").hash == recipe.hash
        ('adamw', True)
    """

    name: Name = "run"
    """A label; not part of the identity."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Root of all randomness: initialisation, data order, sampling."""
    start: Annotated[Start | None, WithJsonSchema(_REFERENCE)] = None
    """What this run begins with: another run's name, directory or hash, a checkpoint, or a Hugging Face directory."""
    models: Annotated[dict[Name, Annotated[ModelReference, WithJsonSchema(_REFERENCE)]], Later()] = {}
    """Other models that parts of the recipe use, by their role in it (``models.teacher``)."""
    source: SourceSlot
    tokenizer: TokenizerSlot = "bytes"  # type: ignore[assignment]
    model: ModelSlot
    objective: ObjectiveSlot = "next_token"  # type: ignore[assignment]
    optimizer: OptimizerSlot = "adamw"  # type: ignore[assignment]
    schedule: ScheduleSlot = "cosine"  # type: ignore[assignment]
    averaging: AveragingSlot | None = None
    parametrization: ParametrizationsSlot | None = None
    """What stands in for the products of the matrices within the blocks, e.g. integer weights or LoRA; or a list of
    such parts in order, e.g. ["nm", "integer"]."""
    transforms: Annotated[tuple[TransformSlot, ...], Later()] = ()
    """What was done in order to the weights of its start, with no step after it: `isoflop compress` makes such runs."""
    freeze: Annotated[tuple[str, ...], Later()] = ()
    """Parameters that are not trained: roles (embedding, head, norm, hidden, bias, a part's own) or name patterns."""
    metrics: tuple[MetricSlot, ...] = ("bits_per_byte",)  # type: ignore[assignment]
    budget: Budget
    train: Train = Train()

    kind = "recipe"

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        problems = [] if self.metrics else ["metrics: names none; the first one is the run's value"]
        metrics = [metric.name for metric in self.metrics]
        problems += [f"metrics: names {name} twice" for name in sorted(set(metrics)) if metrics.count(name) > 1]
        for _, part in self.parts():
            problems += part.check(self)
            problems += self.unmet(part)
        problems += self._frozen()
        problems += self._other_models()
        if self.train.activation_checkpointing and Linearizing in self.optimizer.needs.get("objective", ()):
            problems.append(
                f"train.activation_checkpointing: {self.optimizer.name} differentiates the model by torch.func, which "
                "computes nothing again; leave it out"
            )
        if self.budget.seconds is not None and self.schedule.needs_horizon:
            problems.append(
                f"budget.seconds: has no horizon, which schedule {self.schedule.name} needs; "
                "use schedule constant or another budget"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _frozen(self) -> list[str]:
        """Rules that freeze nothing, or everything."""
        if not self.freeze and (self.parametrization is None or self.parametrization.everywhere):
            return []
        shapes = self.model.shapes(self.vocab_size)
        problems = [
            f"freeze: {rule!r} is no role and matches no parameter's name (e.g. {shapes[-1].name})"
            for rule in self.freeze
            if all(Treatment(freeze=(rule,)).trains(shape) for shape in self.policy.all_shapes(self.vocab_size))
        ]
        if self.parametrization is not None:
            problems += self.parametrization.matches(shapes)
        if not problems and not self.policy.trained_shapes(self.vocab_size):
            problems.append("freeze: leaves nothing to train")
        return problems

    def _other_models(self) -> Iterator[str]:
        """Models that are missing, that nothing uses, or that know other ids."""
        used = {name: part for _, part in self.parts() for name in part.uses}
        used |= self._adopted()
        for name, part in used.items():
            if name not in self.models:
                yield f"models.{name}: is missing, {part.slot} {part.name} needs it; name a run, e.g. runs/a"
        for name in (used.keys() - self._adopted().keys()) & self.models.keys():
            if self.models[name].adapter:
                yield f"models.{name}: is an adapter, and {used[name].slot} {used[name].name} needs a model; name a run"
        for name in self._adopted().keys() & self.models.keys():
            taker, other = self.parametrization, self.models[name].parametrization
            if taker is not None and not taker.legal(other):
                kind = "no parametrization" if other is None else other.name
                yield f"models.{name}: was trained with {kind}, which {taker.name} cannot take up; name a run with lora"
        for name in self.models.keys() - used.keys():
            fix = nearest(name, used) if used else "leave it out"
            yield f"models.{name}: no part of this recipe uses it; {fix}"
        if self.start is not None and not self._takes_ids_of(self.start):
            added = f", {self.objective.extra_ids} of them its objective's" if self.objective.extra_ids else ""
            yield f"start: {self.start.run} knows {self.start.vocab_size} ids, this recipe has {self.vocab_size}{added}"

    def _takes_ids_of(self, start: Start) -> bool:
        """Whether the start knows the same ids, or lacks some that this recipe's objective adds, which are new then."""
        lacking = self.vocab_size - start.vocab_size
        return lacking == 0 or (0 < lacking <= self.objective.extra_ids and not start.optimizer)

    def _adopted(self) -> dict[str, Part]:
        """Models whose updates the parametrization takes up, by name."""
        part = self.parametrization
        return {} if part is None else dict.fromkeys(part.adopts, part)

    def unmet(self, part: Part) -> list[str]:
        """What a part of this recipe, or one that uses its model, needs of the recipe's parts and does not find."""
        others = {slot: getattr(self, slot) for slot in part.needs}
        return [
            f"{part.slot}: {part.name} needs {slot} to be {kind.__name__}, "
            f"which {others[slot].name} is not{_meant(kind)}"
            for slot, wanted in part.needs.items()
            for kind in sorted(wanted - others[slot].abilities, key=lambda kind: kind.__name__)
        ]

    @classmethod
    def completed(cls, tree: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """The tree with its references to other models resolved (``core.references``)."""
        return completed(tree)

    @property
    def taken(self) -> int:
        """Steps that the optimizer has taken before the first one of this run: 0 but where it keeps an old state."""
        return self.start.steps if self.start is not None else 0

    @property
    def references(self) -> dict[str, Reference]:
        """Every other model that the recipe names, by key path."""
        others: dict[str, Reference] = {f"models.{name}": reference for name, reference in self.models.items()}
        return others if self.start is None else {"start": self.start, **others}

    def parts(self) -> Iterator[tuple[str, Part]]:
        """Every part with its key path, nested ones included."""
        yield from _parts_of(self, "")

    @property
    def policy(self) -> ModelPart:
        """The model that is trained: the architecture with what is frozen, parametrized and added by the objective."""
        part = self.parametrization
        if part is not None:
            part = part.given({name: other.parametrization for name, other in self.models.items()})
        return self.model.treated(
            Treatment(part, self.freeze, self.train.activation_checkpointing, self.objective.owned_beside(self.models))
        )

    @property
    def vocab_size(self) -> int:
        """Token ids that the model must know: those of the text, then those that the objective adds."""
        return (self.source.vocab_size or self.tokenizer.vocabulary) + self.objective.extra_ids

    @property
    def rng(self) -> Rng:
        return Rng(self.seed)

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 (64 hex digits) of the canonical JSON (``to_json``) of everything but the name."""
        return hash_of(self.to_json())

    @property
    def id(self) -> str:
        """The first 12 digits of the hash."""
        return self.hash[:12]

    def having(self, **fields: Any) -> Self:
        """A copy with other values of top-level fields, e.g. ``seed=2``; parts that stay are not built again.

        Args:
            fields: values of the fields' own types (a ``Budget``, a part), not TOML.

        Raises:
            RecipeError: the parts do not fit together with these values.
        """
        try:
            own = {name: getattr(self, name) for name in type(self).model_fields}  # not what is cached
            return self.model_validate({**own, **fields}, context=self.context)
        except ValidationError as error:
            raise RecipeError(problems_of(error, type(self), self.to_json()), source=self.name) from None

    def differences(self, other: Recipe) -> list[str]:
        """Key paths (but ``name``) at which two recipes differ, each "path: ours -> theirs"."""
        ours, theirs = dict(leaves(self.to_json())), dict(leaves(other.to_json()))
        paths = [path for path in {**ours, **theirs} if path != "name" and ours.get(path) != theirs.get(path)]
        return [f"{path}: {_shown(ours.get(path))} -> {_shown(theirs.get(path))}" for path in paths]


class StoredRecipe(Recipe):
    """The recipe of a run that exists: it was legal where it was trained, and could be used where it could not be.

    Its parts are validated as ever, but not asked whether a training run would fit together on this machine. They may
    be older versions of themselves, whose numbers differed; the recipe keeps the hash that it was stored with.
    """

    context = STORED

    @model_validator(mode="after")
    def _fits_together(self) -> StoredRecipe:
        return self


def hash_of(tree: Mapping[str, Any]) -> str:
    """The hash of a recipe that is given as JSON values with every default; reads no part."""
    kept = {key: value for key, value in tree.items() if key != "name"}
    if "start" in kept:
        kept["start"] = identity(kept["start"])
    if isinstance(kept.get("models"), Mapping):
        kept["models"] = {name: identity(reference) for name, reference in kept["models"].items()}
    return digest(kept)


def json_schema() -> dict[str, Any]:
    """The recipe's JSON schema, for editors: every slot with every part. Imports all parts."""
    return schema_document(Recipe)


def _parts_of(node: Frozen, prefix: str) -> Iterator[tuple[str, Part]]:
    for field in type(node).model_fields:
        value = getattr(node, field)
        for index, item in enumerate(value if isinstance(value, tuple) else (value,)):
            path = f"{prefix}{field}" + (f".{index}" if isinstance(value, tuple) else "")
            if isinstance(item, Part):
                yield path, item
            if isinstance(item, Frozen):
                yield from _parts_of(item, f"{path}.")


def _shown(value: Any) -> str:
    return "absent" if value is None else canonical_json(value)


def _meant(kind: type) -> str:
    """What a capability asks, in its docstring's first words."""
    told = opening(kind.__doc__).rstrip(".").replace("``", "")
    return f" ({kind.__name__}: {told[0].lower()}{told[1:]})" if told else ""

"""The contract of every slot, by direction of data: what the live object must do, and the base class of its part.

A slot's live object has at most three required methods. Whatever goes beyond is a capability: a Protocol class, which
a part names in ``provides`` and another part may ask for in ``needs``. A recipe that needs a missing one is refused by
name before anything is allocated.
"""

from ..tokenizer import TOKENIZER, LoadsTokenizer, Storable, Tokenizer, TokenizerPart
from .data import Batch, Batches, Draws, HeldOut, Source, SourcePart, TokenBatch
from .model import Cacheable, FeedForwardPart, LayerPart, MixerPart, Model, ModelPart, NormPart, Products
from .objective import (
    Guess,
    Likelihood,
    Linearizing,
    Loss,
    LossOf,
    Objective,
    ObjectivePart,
    Outputs,
    Predicts,
    Resampling,
)
from .parametrization import PLACE, Parametrization, ParametrizationPart, Timed, Treatment, added, merged
from .pattern import Causal, Documents, Pattern, Seen, within
from .training import (
    Averaging,
    AveragingPart,
    Optimizer,
    OptimizerPart,
    Outcome,
    Passes,
    Problem,
    SchedulePart,
    Stateful,
    SwapsWeights,
)
from .use import Decoder, DecoderPart, Measurement, Metric, MetricPart, Subject

__all__ = [
    "PLACE",
    "TOKENIZER",
    "Averaging",
    "AveragingPart",
    "Batch",
    "Batches",
    "Cacheable",
    "Causal",
    "Decoder",
    "DecoderPart",
    "Documents",
    "Draws",
    "FeedForwardPart",
    "Guess",
    "HeldOut",
    "LayerPart",
    "Likelihood",
    "Linearizing",
    "LoadsTokenizer",
    "Loss",
    "LossOf",
    "Measurement",
    "Metric",
    "MetricPart",
    "MixerPart",
    "Model",
    "ModelPart",
    "NormPart",
    "Objective",
    "ObjectivePart",
    "Optimizer",
    "OptimizerPart",
    "Outcome",
    "Outputs",
    "Parametrization",
    "ParametrizationPart",
    "Passes",
    "Pattern",
    "Predicts",
    "Problem",
    "Products",
    "Resampling",
    "SchedulePart",
    "Seen",
    "Source",
    "SourcePart",
    "Stateful",
    "Storable",
    "Subject",
    "SwapsWeights",
    "Timed",
    "TokenBatch",
    "Tokenizer",
    "TokenizerPart",
    "Treatment",
    "added",
    "merged",
    "within",
]

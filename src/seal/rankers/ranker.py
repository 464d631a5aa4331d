"""What every ranker is: hyperparameters, and one method from a pool to a ranking."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from seal.artifacts.ranking import Ranking
from seal.artifacts.settings import Settings
from seal.checkpoint import Checkpoint, Checkpoints
from seal.data.sample import Sample
from seal.data.tokenize import Encoded, Tokenization
from seal.models import LanguageModel, LoraSpec
from seal.progress import Progress, silent
from seal.tables import Tables


def forget(record: dict[str, Any]) -> None:
    """Keep no record."""


@dataclass(frozen=True, slots=True)
class Extended:
    """A finished ranking whose pool was added to.

    Attributes:
        ids: The samples that it scored, held-out rows included, in ascending order.
        state: What the run was before its closing step.
    """

    ids: Sequence[str]
    state: Checkpoint


@dataclass(frozen=True, slots=True, eq=False)
class RankingTask:
    """What a ranker is given.

    Attributes:
        lm: The aligned model. It is the ranker's to change: nobody uses it afterwards.
        pool: The samples to score, each with at least one response token. They carry no label and
            no source: a ranker cannot see what it will be judged by.
        safe: The trusted samples, likewise.
        harmful: Samples of what must not be learned, where the user has some; often empty.
        samples: Id -> the conversation of every row of the three sets, its source left out.
        tokenization: How the rows were made of the samples.
        tables: Passes over rows, each made once per run; `tables.losses(lm, rows)`.
        progress: Told how far the work is.
        log: Given one flat record per step; lands in metrics.jsonl.
        checkpoints: Where a long ranking keeps its state; None keeps none.
        extended: The ranking to go on from, where samples were added to its pool.
    """

    lm: LanguageModel
    pool: Sequence[Encoded]
    safe: Sequence[Encoded]
    harmful: Sequence[Encoded] = ()
    samples: Mapping[str, Sample] = field(default_factory=dict)
    tokenization: Tokenization = field(default_factory=Tokenization)
    tables: Tables = field(default_factory=Tables)
    progress: Progress = silent
    log: Callable[[dict[str, Any]], None] = forget
    checkpoints: Checkpoints | None = None
    extended: Extended | None = None


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the sets are, in tokens, prompts included.

    Attributes:
        pool: Of the pool.
        safe: Of the safe set.
        harmful: Of the harmful references.
        num_pool: Samples of the pool.
        num_safe: Samples of the safe set.
        num_harmful: Harmful references.
    """

    pool: int
    safe: int
    harmful: int
    num_pool: int
    num_safe: int
    num_harmful: int


@dataclass(frozen=True, slots=True)
class Cost:
    """Work of a method, in tokens that pass through a model of the aligned model's size.

    Attributes:
        forward: Tokens of forward passes without a graph, counted with the share of the model's
            depth they pass through.
        trained: Tokens of forward and backward passes together.
    """

    forward: float = 0.0
    trained: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        """Both, one after the other."""
        return Cost(self.forward + other.forward, self.trained + other.trained)


@dataclass(frozen=True, slots=True)
class OptimizerSteps:
    """What one optimizer step of a ranker is, for an estimate of its time.

    Attributes:
        batch_size: Pool samples per step; as many references come with them.
        micro_batch_size: Rows per forward pass; None lets the memory decide.
        tuning: "lora" trains an adapter, "full" all weights.
        lora: The adapter, where one is trained.
    """

    batch_size: int = 16
    micro_batch_size: int | None = None
    tuning: Literal["lora", "full"] = "lora"
    lora: LoraSpec = field(default_factory=LoraSpec)


class Meaning(NamedTuple):
    """What the value of a column says about a sample, as the report words it.

    Attributes:
        high: A value above 0; any value where `low` is empty.
        low: A value below 0.
        unit: Unit of the value.
    """

    high: str
    low: str = ""
    unit: str = ""


class Ranker(Settings):
    """A method of scoring the samples of a pool; abstract.

    A ranker gives every pool sample exactly one finite score, higher = keep; the same seed gives
    the same scores, and reordering the pool reorders the scores with it.
    """

    READS_ONCE: ClassVar[bool] = False  # all it computes of a sample is in the task's tables
    RESUMES_STATE: ClassVar[bool] = False  # a finished ranking is extended from its last checkpoint
    SCORES_NEW_ROWS: ClassVar[bool] = True  # held-out safe rows, too, and not the pool alone
    SCORE: ClassVar[str] = ""  # what a score is, as the report words it; empty names the page
    COLUMNS: ClassVar[Mapping[str, Meaning]] = {}  # numeric columns, as the report words them
    HIDDEN_COLUMNS: ClassVar[frozenset[str]] = frozenset()  # columns that say nothing to a reader

    @abstractmethod
    def rank(self, task: RankingTask) -> Ranking:
        """Score the pool."""

    @property
    def needs_harmful(self) -> bool:
        """Whether, as it is set, it refuses to work without harmful references."""
        return False

    def identity(self) -> dict[str, Any]:
        """The settings that decide scores, as JSON: neither memory nor when it gives up."""
        return self.model_dump(mode="json", exclude={"micro_batch_size", "max_skipped_steps"})

    def needs_float32(self) -> str:
        """Why half precision would spoil the scores, or ""; asked where the run leaves it open."""
        return ""

    def extends(self) -> str:
        """Why a finished ranking cannot be added to, or "".

        By default only a method can whose work on a sample is all in the task's tables.
        """
        if self.READS_ONCE:
            return ""
        return "it learns from the whole pool, so what is added would not be comparable"

    def reads(self) -> dict[str, Any]:
        """Key -> hash of what the method reads from disk besides its task; JSON.

        It is part of a ranking's identity: a file or a model that changed under the same path does
        not pass for the old one.
        """
        return {}

    def cost(self, sizes: Sizes) -> Cost | None:  # noqa: ARG002
        """What ranking takes, from the sizes of the sets; None for a method that does not say."""
        return None

    def optimizer_steps(self) -> OptimizerSteps:
        """What one of its optimizer steps is, for a method whose `cost` has trained tokens."""
        return OptimizerSteps()


def require_harmful(task: RankingTask, method: str) -> Sequence[Encoded]:
    """The task's harmful references.

    Raises:
        ValueError: If there are none.
    """
    if not task.harmful:
        raise ValueError(
            f"rank.method={method} needs harmful references; give some as harmful.path, or choose "
            "a ranker that needs none (docs/how-to-choose.md)."
        )
    return task.harmful

"""``Task``: what must be done, as the user writes it in ``task.yaml``.

Notable: one description per setting, under its field; the JSON Schema, the CLI reference and the error
messages all come from here. Not here: reading YAML with line numbers (``schema.taskfile``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from locum.schema.base import Document
from locum.schema.kinds import CORRECT_AT, METHODS, METRICS, PROMPTED, TUNED, WRITING, Kind, Method, Profile, form

GuaranteeKind = Literal["selective", "marginal", "regret"]
Address = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Addresses = Address | Annotated[tuple[Address, ...], Field(min_length=1, max_length=16)]
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
"""What a task, and so its bundle, may be called: it stands in terminals, logs, URLs and metrics."""
Share = Annotated[float, Field(gt=0, lt=0.9)]
Positive = Annotated[float, Field(gt=0)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

SPLITS: tuple[Literal["train"], Literal["dev"], Literal["calibration"], Literal["test"]] = (
    "train",
    "dev",
    "calibration",
    "test",
)
"""train, dev (all choices), calibration (certificate only), test (report only)."""


class SplitShares(Document):
    """What to set aside when no file is given for a split, as shares of the training file."""

    dev: Share | None = Field(
        default=None, description="Share for dev; default: 6·√rows, 100 to 1,000 rows, at most 20 %."
    )
    calibration: Share | None = Field(
        default=None, description="Share for calibration; default: what the certificate needs, at most 20 %."
    )
    test: Share | None = Field(default=None, description="Share for test when there is no test file; default 20 %.")


class DataSpec(Document):
    """Where the examples are and how to read them."""

    train: Addresses = Field(description="Path, hf://…, pypi://… or https://…; a list is tried in order.")
    dev: Addresses | None = Field(default=None, description="Rows for all choices; taken from train when absent.")
    calibration: Addresses | None = Field(
        default=None, description="Rows for the certificate only; taken from train when absent."
    )
    test: Addresses | None = Field(default=None, description="Rows for the report only; taken from train when absent.")
    sha256: dict[Literal["train", "dev", "calibration", "test"], Sha256] = Field(
        default_factory=dict, description="SHA-256 of a file by split; a download that differs is refused."
    )
    input: str | tuple[str, ...] = Field(
        description="Column, or columns, that the student reads; answers.text reaches into objects."
    )
    output: str | tuple[str, ...] = Field(
        description="Column with the right answer; several columns become one JSON object."
    )
    group: str | None = Field(
        default=None,
        description="Column that names what rows belong together (a conversation, a document, a customer); they stay "
        "in one split, and the certificate speaks of new ones.",
    )
    format: Literal["auto", "csv", "tsv", "jsonl", "parquet"] = Field(
        default="auto", description="File format; auto goes by the file's name and content."
    )
    encoding: str | None = Field(default=None, description="Text encoding when it cannot be detected, e.g. latin-1.")
    skip_bad: bool = Field(default=False, description="Count and skip rows that cannot be read instead of stopping.")
    max_field_chars: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        default=100_000, description="Longer fields are cut and counted."
    )
    duplicates: Literal["near", "exact", "keep"] | None = Field(
        default=None,
        description="Which copies train leaves out (dev, calibration and test count each row as often as it came); "
        "keep: none, and rows that stand in several files are traffic that repeats itself. Default: near for labels, "
        "else exact.",
    )
    allow_leakage: bool = Field(
        default=False,
        description="Go on although test rows also stand in the training file you gave (they are removed).",
    )
    max_rows: Annotated[int, Field(ge=10)] | None = Field(
        default=None, description="Use at most this many training rows, chosen deterministically."
    )
    max_held_out: Annotated[int, Field(ge=10)] | None = Field(
        default=None,
        description="Use at most this many rows of each of dev, calibration and test, chosen deterministically; "
        "default: 200 where answers are written, because each takes about a second, else all.",
    )
    split: SplitShares = Field(default=SplitShares(), description="Shares for splits without a file.")


class Target(Document):
    """How good is good enough."""

    metric: str | None = Field(default=None, description="The metric that choices go by; default: the kind's first.")
    correct_at: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="For graded answers: the row score from which one counts as correct in the certificate.",
    )
    at_least: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="Good enough: the smallest student at or above this on dev is chosen."
    )

    @field_validator("metric")
    @classmethod
    def _is_known(cls, metric: str | None) -> str | None:
        known = list(dict.fromkeys(name for names in METRICS.values() for name in names))
        if metric is not None and metric not in known:
            raise ValueError(f"must be one of the kind's metrics; known: {', '.join(known)}")
        return metric


class Budget(Document):
    """What the student may cost, to serve and to build."""

    memory_mb: Positive | None = Field(default=None, description="Memory the served student may take, MB.")
    latency_ms: Positive | None = Field(default=None, description="Median latency for one answer, milliseconds.")
    size_mb: Positive | None = Field(default=None, description="Size of the served model on disk, MB.")
    build_minutes: Positive = Field(
        default=15, description="Wall time for the build, minutes; what an LLM is asked comes on top."
    )
    device: str = Field(
        default="this",
        description="The device it must run on: this, or the name of a known one (an unknown name lists them).",
    )


class StudentSpec(Document):
    """One candidate, named by hand."""

    base: str | None = Field(default=None, description="A base from `locum models`, a folder, or hf://OWNER/NAME.")
    method: Method = Field(
        description="linear: TF-IDF (BM25 to rank); head: frozen body; full: all weights tuned; lora, dora: adapters; "
        "prompt: an instruction; few_shot: an instruction and worked examples."
    )
    depth: Annotated[int, Field(ge=1, le=200)] | None = Field(
        default=None,
        description="For students that are trained to label, tag or rank: layers kept, from the first; default: all, "
        "or what the budget allows.",
    )
    train_layers: Annotated[int, Field(ge=1, le=200)] | None = Field(
        default=None,
        description="For students that are tuned to write (full, lora, dora): how many of the last layers learn; the "
        "others are run once and kept, so a pass takes less time. Default: all.",
    )
    multitask: bool = Field(
        default=False,
        description="For full, lora and dora: tuned on the rows of this task and of those under multitask.tasks.",
    )

    @model_validator(mode="after")
    def _base_fits_method(self) -> Self:
        if (self.base is None) != (self.method == "linear"):
            raise ValueError("method linear takes no base; every other method needs one")
        if self.depth is not None and self.method in ("linear", *PROMPTED):
            raise ValueError(f"depth is for bases that are trained, and method {self.method} trains none: leave it out")
        if self.train_layers is not None and self.method not in TUNED:
            raise ValueError(f"train_layers is for methods that tune what writes: {', '.join(TUNED)}")
        if self.multitask and self.method not in TUNED:
            raise ValueError(f"multitask is for methods that tune what writes: {', '.join(TUNED)}")
        return self


class MultitaskSpec(Document):
    """Other tasks that a student learns together with this one (multi-task tuning)."""

    tasks: Annotated[tuple[Address, ...], Field(min_length=1, max_length=16)] = Field(
        description="Task files of the other tasks, relative to this file; each of kind extract or generate."
    )
    mixing: Annotated[float, Field(ge=1, le=1e9)] = Field(
        default=2.0,
        description="Temperature T of the mixture: a task's share of an epoch goes by rows^(1/T). 1 takes every row "
        "once, a large T as many rows from every task.",
    )


class Price(Document):
    """What the LLM costs, per million tokens, in the currency of your bill."""

    input: Annotated[float, Field(ge=0)] = Field(description="Price of a million input tokens.")
    output: Annotated[float, Field(ge=0)] = Field(description="Price of a million output tokens.")


class LlmSpec(Document):
    """The large model: behind an OpenAI-compatible URL, or a local GGUF file."""

    base_url: str | None = Field(default=None, description="Its OpenAI-compatible URL, ending in /v1.")
    model: str = Field(description="The model's name there; or, without base_url, a GGUF file or catalogue name.")
    api_key_env: str | None = Field(default=None, description="Environment variable that holds the key.")
    price: Price | None = Field(default=None, description="Its price per million tokens.")
    max_cost: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="Most that one build, eval or certify may spend on it, in the currency of price; default: no cap.",
    )
    examples: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=200, description="How many test rows it answers as the reference row; 0 for none."
    )
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None,
        description="Most tokens of an answer, thought included; default: what it needs, more if it is cut.",
    )
    timeout_s: Positive = Field(default=60, description="Seconds to wait for one answer, retries included.")
    connect_timeout_s: Positive = Field(default=10, description="Seconds to wait for a connection.")
    idle_timeout_s: Positive = Field(default=30, description="Seconds between two pieces of an answer.")

    @field_validator("base_url")
    @classmethod
    def _is_http(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("https://", "http://")):
            raise ValueError("must start with https:// (or http:// on your own network)")
        return url

    @model_validator(mode="after")
    def _key_needs_url_and_cap_price(self) -> Self:
        if self.base_url is None and self.api_key_env is not None:
            raise ValueError("api_key_env is for a base_url; a local GGUF file needs no key")
        if self.max_cost is not None and self.price is None:
            raise ValueError("max_cost is counted by price, and there is none: give llm.price, per million tokens")
        return self


class GenerationSpec(Document):
    """How answers are written, for the kinds that write them."""

    max_tokens: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=None, description="Most tokens of an answer; default: room for nearly all right answers in train."
    )
    context: Annotated[int, Field(ge=256, le=1_000_000)] = Field(
        default=2048, description="Most tokens of a prompt and its answer together."
    )
    examples: Annotated[int, Field(ge=1, le=64)] = Field(
        default=4, description="Worked examples that a few-shot student is shown at most."
    )
    search_calls: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=200,
        description="Answers that may be asked for to search an instruction and examples, for each student.",
    )
    samples: Annotated[int, Field(ge=0, le=64)] = Field(
        default=0, description="Further answers drawn to see whether they agree, for the confidence; 0 for none."
    )


class JudgeSpec(Document):
    """How the LLM judges answers, and answers that people graded, which show how far it agrees with them."""

    criterion: Annotated[str, StringConstraints(min_length=1, max_length=4000, strip_whitespace=True)] = Field(
        default=(
            "Does the answer do what the task asks, as well as the reference answer does, and say nothing that is "
            "wrong?"
        ),
        description="What makes an answer good, as a question to the judge.",
    )
    grades: Annotated[int, Field(ge=2, le=100)] = Field(
        default=5, description="How many grades there are: 1 is the worst; 2 make a verdict of wrong or right."
    )
    human: Addresses | None = Field(
        default=None,
        description="Answers that people graded, a file with the task's input columns; a list is tried in order.",
    )
    sha256: Sha256 | None = Field(default=None, description="SHA-256 of that file; a download that differs is refused.")
    answer: str = Field(default="answer", description="Its column with the answer that was graded.")
    grade: str = Field(
        default="grade",
        description="Its column with people's grade, a whole number from 1; of 2 grades also true or false.",
    )
    reference: str | None = Field(
        default=None, description="Its column with a good answer, for the judge to see; default: it sees none."
    )

    @model_validator(mode="after")
    def _columns_are_of_a_file(self) -> Self:
        named = sorted(self.model_fields_set & {"answer", "grade", "reference", "sha256"})
        if self.human is None and named:
            raise ValueError(f"{', '.join(named)}: for answers that people graded, and judge.human names no file")
        columns = [name for name in (self.answer, self.grade, self.reference) if name is not None]
        if len(set(columns)) < len(columns):
            raise ValueError(f"answer, grade and reference are columns of their own, and two are the same: {columns}")
        return self


class Guarantee(Document):
    """The statement that the certificate proves."""

    kind: GuaranteeKind = Field(
        default="selective", description="selective, marginal or regret (see docs/guarantees.md)."
    )
    max_error: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.05, description="The α (or ε) of the statement.")
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = Field(default=0.95, description="Its confidence 1−δ.")


def _fault(place: tuple[int | str, ...], message: str, seen: object) -> InitErrorDetails:
    """A fault below the value that a validator looks at."""
    return InitErrorDetails(type=PydanticCustomError("value_error", message), loc=place, input=seen)  # pyright: ignore[reportArgumentType]


_NEEDED = {"profile": ("kind", "generate"), "answer_schema": ("kind", "extract"), "scorer": ("profile", "custom")}
"""What belongs to one kind or profile alone, which cannot do without it."""


class Task(Document):
    """A whole task file."""

    version: Literal[1] = Field(description="Version of this file's format.")
    name: Annotated[str, StringConstraints(pattern=NAME_PATTERN)] = Field(
        description="Short name: lower case, digits, dot, dash."
    )
    kind: Kind = Field(description="What the student does: classify, tag, extract, generate or rank.")
    profile: Profile | None = Field(
        default=None,
        validate_default=True,
        description="For generate: qa, maths, summarise, translate, code, chat, or custom with a scorer of your own.",
    )
    answer_schema: dict[str, Any] | None = Field(
        default=None,
        validate_default=True,
        description="For extract: the JSON schema of the answer, which is an object.",
    )
    scorer: str | None = Field(
        default=None,
        validate_default=True,
        description="For profile custom: name of a scorer, an entry point in the group locum.scorers; or judge.",
    )
    judge: JudgeSpec | None = Field(
        default=None, description="For scorer judge: what it goes by, and the answers that people graded."
    )
    instruction: Annotated[str, StringConstraints(min_length=1, max_length=8000)] = Field(
        description="The question that each input answers, in plain words."
    )
    data: DataSpec = Field(description="Where the examples are.")
    target: Target = Field(default=Target(), description="How good is good enough.")
    budget: Budget = Field(default=Budget(), description="What it may cost.")
    multitask: MultitaskSpec | None = Field(
        default=None,
        description="For kinds that write: other tasks to learn from. One more student is tuned on the rows of all of "
        "them, and the report says whether this task gained or was harmed.",
    )
    students: Literal["auto"] | Annotated[tuple[StudentSpec, ...], Field(min_length=1, max_length=32)] = Field(
        default="auto", description="auto, or a list of candidates."
    )
    llm: LlmSpec | None = Field(
        default=None, validate_default=True, description="The large model to compare with and hand over to."
    )
    guarantee: Guarantee = Field(default=Guarantee(), description="The statement to prove.")
    generation: GenerationSpec = Field(default=GenerationSpec(), description="How answers are written.")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(default=0, description="Seed for splits and training.")

    @property
    def form(self) -> str:
        """The kind, or for ``generate`` its profile: what prompts, scorers and defaults hang on."""
        return form(self.kind, self.profile)

    @property
    def max_held_out(self) -> int | None:
        """Most rows of each of dev, calibration and test; None is no limit."""
        return self.data.max_held_out or (200 if self.kind in WRITING else None)

    @property
    def duplicates(self) -> Literal["near", "exact", "keep"]:
        """Which copies train leaves out: inputs that share a passage and ask different things are no copies."""
        return self.data.duplicates or ("near" if self.kind == "classify" else "exact")

    @property
    def metric(self) -> str:
        """The metric that choices go by."""
        return self.target.metric or METRICS[self.form][0]

    @property
    def correct_at(self) -> float:
        """The row score from which a graded answer counts as correct; 1 where answers are right or wrong."""
        return self.target.correct_at or CORRECT_AT.get(self.form, 1.0)

    def with_answers_of(self, tokens: int | None) -> Self:
        """The task with a limit for its answers, when it has none of its own."""
        if tokens is None or self.generation.max_tokens is not None:
            return self
        generation = self.generation.model_copy(update={"max_tokens": tokens})
        return self.model_copy(update={"generation": generation})

    @property
    def judged(self) -> JudgeSpec | None:
        """How the LLM judges answers; None where another scorer does."""
        return (self.judge or JudgeSpec()) if self.scorer == "judge" else None

    @field_validator("profile", "answer_schema", "scorer")
    @classmethod
    def _kind_has_what_it_needs(cls, value: Any, info: ValidationInfo) -> Any:
        key, owner = _NEEDED[str(info.field_name)]
        if key in info.data and (info.data[key] == owner) != (value is not None):  # else that key is at fault already
            raise ValueError(f"{info.field_name} is for {key}: {owner}, which needs one")
        return value

    @field_validator("judge")
    @classmethod
    def _judge_judges(cls, judge: JudgeSpec | None, info: ValidationInfo) -> JudgeSpec | None:
        if judge is not None and "scorer" in info.data and info.data["scorer"] != "judge":
            raise ValueError("judge is for scorer: judge, which this task does not have")
        return judge

    @field_validator("llm")
    @classmethod
    def _judge_is_there(cls, llm: LlmSpec | None, info: ValidationInfo) -> LlmSpec | None:
        if llm is None and info.data.get("scorer") == "judge":
            raise ValueError("scorer: judge asks the LLM, so llm must be given")
        return llm

    @field_validator("data")
    @classmethod
    def _columns_fit_kind(cls, data: DataSpec, info: ValidationInfo) -> DataSpec:
        kind = info.data.get("kind")
        inputs = 1 if isinstance(data.input, str) else len(data.input)
        outputs = 1 if isinstance(data.output, str) else len(data.output)
        if data.group is not None and data.group in ((data.output,) if isinstance(data.output, str) else data.output):
            raise ValueError("group names the column of the right answer, which nobody knows of a new row")
        if kind == "tag" and inputs != 1:
            raise ValueError("input is one column for kind: tag, the text that spans are places in")
        if kind == "rank" and inputs != 2:
            raise ValueError("input is two columns for kind: rank, the query (or history) and the list of candidates")
        if kind in ("classify", "tag", "rank") and outputs != 1:
            raise ValueError(f"output is one column for kind: {kind}")
        return data

    @field_validator("multitask")
    @classmethod
    def _multitask_writes(cls, multitask: MultitaskSpec | None, info: ValidationInfo) -> MultitaskSpec | None:
        kind = info.data.get("kind", WRITING[0])  # without one, that key is at fault already
        if multitask is not None and kind not in WRITING:
            raise ValueError(f"multitask is for kinds that write ({', '.join(WRITING)}), and this is kind: {kind}")
        return multitask

    @field_validator("students")
    @classmethod
    def _students_fit_kind(
        cls, students: Literal["auto"] | tuple[StudentSpec, ...], info: ValidationInfo
    ) -> Literal["auto"] | tuple[StudentSpec, ...]:
        kind: Kind | None = info.data.get("kind")
        if students == "auto" or kind is None:
            return students
        faults: list[InitErrorDetails] = []
        for place, spec in enumerate(students):
            if spec.method not in METHODS[kind]:
                known = ", ".join(METHODS[kind])
                faults.append(_fault((place, "method"), f"no method for kind: {kind}; use one of {known}", spec.method))
            elif spec.depth is not None and kind in WRITING:
                depth = "a student that writes keeps all layers of its base: leave depth out"
                faults.append(_fault((place, "depth"), depth, spec.depth))
            elif spec.train_layers is not None and kind not in WRITING:
                part = f"it is for students that write ({', '.join(WRITING)}): leave train_layers out"
                faults.append(_fault((place, "train_layers"), part, spec.train_layers))
        if faults:
            raise ValidationError.from_exception_data("students", faults)
        return students

    @field_validator("students")
    @classmethod
    def _students_fit_multitask(
        cls, students: Literal["auto"] | tuple[StudentSpec, ...], info: ValidationInfo
    ) -> Literal["auto"] | tuple[StudentSpec, ...]:
        if students == "auto" or "multitask" not in info.data:
            return students
        asked, given = any(spec.multitask for spec in students), info.data["multitask"] is not None
        if asked and not given:
            raise ValueError("a student has multitask: true, and multitask.tasks names no other tasks to learn from")
        if given and not asked:
            raise ValueError("no student learns from the tasks under multitask: give one of them multitask: true")
        return students

    @field_validator("data")
    @classmethod
    def _graded_columns_are_no_inputs(cls, data: DataSpec, info: ValidationInfo) -> DataSpec:
        judge = info.data.get("judge")
        if judge is None or judge.human is None:
            return data
        inputs = (data.input,) if isinstance(data.input, str) else data.input
        twice = [name for name in inputs if name in (judge.answer, judge.grade, judge.reference)]
        if twice:
            raise ValueError(f"the input {twice[0]!r} is also named under judge, as the answer, grade or reference")
        return data

    @field_validator("target")
    @classmethod
    def _target_fits_kind(cls, target: Target, info: ValidationInfo) -> Target:
        name = form(info.data.get("kind", ""), info.data.get("profile"))
        if target.metric is not None and target.metric not in METRICS.get(name, (target.metric,)):
            raise ValueError(f"target.metric {target.metric!r} is none of {', '.join(METRICS[name])}")
        if target.correct_at is not None and name in METRICS and name not in CORRECT_AT:
            raise ValueError(f"target.correct_at is for graded answers, and {name} is right or wrong")
        return target

    @model_validator(mode="after")
    def _regret_needs_llm(self) -> Self:
        if self.guarantee.kind == "regret" and self.llm is None:
            raise ValueError("guarantee.kind: regret compares with the LLM, so llm must be given")
        return self

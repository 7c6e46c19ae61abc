"""Who describes features and experts, what may be sent out, and what it may cost."""

import re
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from deepseemoe.config.base import Section

Scorer = Literal["detection", "hard", "fuzzing", "intruder", "embedding", "simulation"]

HOW_ASKED = {
    *("base_url", "api_key_env", "structured", "concurrency", "requests_per_minute"),
    *("tokens_per_minute", "timeout_seconds", "max_retries"),
}
"""Keys that change who answers, and how fast and patiently, but not the answers."""

OURS = {*("model", "messages", "input", "stream", "n", "tools", "response_format"), "logprobs"}
"""Keys of a request that the stage writes itself, or whose answers it would not read."""


class LabelsConfig(Section):
    """Who describes features and experts, from how many contexts, and at which cost."""

    labeller: Literal["offline", "openai"] = Field(
        "offline",
        description="`offline` states the best executable rule and is no LLM. "
        "`openai` asks any OpenAI-compatible server.",
    )
    n_examples: int = Field(20, gt=0, description="Contexts of a feature that the labeller sees.")
    n_judged: int = Field(
        20,
        gt=1,
        description="Contexts with the feature, and as many without, that a scorer judges.",
    )
    per_prompt: int = Field(5, gt=0, description="Contexts that are judged together.")
    scorers: tuple[Scorer, ...] = Field(
        ("detection", "hard", "fuzzing", "intruder"),
        min_length=1,
        description="What the LLM is scored by. `detection`: which contexts have the feature, "
        "among random ones; `hard`: among near misses; `fuzzing`: are the marked tokens the right "
        "ones; `intruder`: which context does not belong, without a description; `embedding`: "
        "retrieval by `embedding_model`; `simulation`: predicted activations, where the server "
        "gives log-probabilities.",
    )
    null_features: int = Field(
        100,
        ge=0,
        description="Features whose contexts are also judged by the description of another: the "
        "null, over which the lift of every score is taken.",
    )
    min_activations: int = Field(
        10, gt=0, description="Features that fire on fewer test tokens are not labelled."
    )
    min_contexts: int = Field(
        5,
        gt=0,
        description="Features with fewer contexts in either half of the documents get no "
        "description by an LLM, but a status that says so.",
    )
    max_features: int | None = Field(
        None,
        gt=0,
        description="Describe at most this many: the best tier of the map first, then the most "
        "frequent.",
    )
    expert_items: int = Field(
        15, gt=0, description="Routed tokens of an expert that its description is judged by."
    )
    expert_others: int = Field(85, gt=0, description="Tokens of other experts beside them.")
    prompts: str | None = Field(
        None, description="Folder with prompts of your own; a file that it lacks is ours."
    )
    model: str = Field("gpt-oss-20b", description="Model name that the server knows.")
    embedding_model: str | None = Field(None, description="Model of the scorer `embedding`.")
    base_url: str | None = Field(None, description="Address of the server; empty is OpenAI's own.")
    api_key_env: str = Field(
        "OPENAI_API_KEY", description="Environment variable with the key; the key is never stored."
    )
    request: dict[str, Any] = Field(
        {}, description="Further keys of every request, as `{reasoning_effort: low}`."
    )
    structured: Literal["auto", "json_schema", "json_object", "none"] = Field(
        "auto",
        description="How the server is made to answer in JSON; `auto` tries. Answers are checked "
        "in any case.",
    )
    max_answer_tokens: int = Field(1000, gt=0, description="Tokens of an answer, with its thought.")
    redact: tuple[Literal["urls", "mail"], ...] = Field(
        ("urls", "mail"), description="What is cut out of texts before they are sent."
    )
    domains: tuple[str, ...] | None = Field(
        None, description="Only documents of these domains are sent; empty: all."
    )
    concurrency: int = Field(8, gt=0, description="Requests under way at once.")
    requests_per_minute: int | None = Field(
        None, gt=0, description="No more than that, whatever the server's headers allow."
    )
    tokens_per_minute: int | None = Field(None, gt=0, description="The same of tokens.")
    timeout_seconds: float = Field(120.0, gt=0, description="Wait for an answer.")
    max_retries: int = Field(
        4, ge=0, description="Tries again after an error or unreadable answer."
    )
    budget_usd: float | None = Field(
        None,
        gt=0,
        description="What the run may cost in US dollars, by the two prices: nothing is asked that "
        "could exceed it. Each dictionary and window has an equal share, a fifth of it for "
        "experts.",
    )
    budget_tokens: int | None = Field(
        None, gt=0, description="Tokens in and out that the run may use, shared in the same way."
    )
    usd_per_million_in: float | None = Field(
        None, ge=0, description="Price of a million tokens of prompts."
    )
    usd_per_million_out: float | None = Field(
        None, ge=0, description="Price of a million tokens of answers."
    )
    format: Literal[1] = Field(1, description="A higher one reruns the stage.")

    def what_is_asked(self) -> dict[str, Any]:
        """Return the keys that tables depend on: not where the server is, nor how it is asked."""
        return self.model_dump(mode="json", exclude=HOW_ASKED)

    @field_validator("base_url")
    @classmethod
    def _holds_no_secret(cls, base_url: str | None) -> str | None:
        """Refuse an address with a password or key in it: the configuration is written down."""
        if base_url is None:
            return None
        parts = urlsplit(base_url)
        if "@" in parts.netloc or parts.query:
            raise ValueError(
                "holds a user, password or query; put the key into the variable api_key_env"
            )
        try:
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
            is_address = is_address and parts.port != 0
        except ValueError:  # of a port that is no number
            is_address = False
        if not is_address:
            raise ValueError("is no address of a server; write one as http://localhost:8000/v1")
        return base_url

    @field_validator("api_key_env")
    @classmethod
    def _is_name(cls, name: str) -> str:
        """Refuse what cannot name a variable: it may be the key itself, and it is shown nowhere."""
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(
                "is no name of an environment variable; write its name, and the key or password "
                "into the variable"
            )
        return name

    @field_validator("request")
    @classmethod
    def _leaves_ours(cls, request: dict[str, Any]) -> dict[str, Any]:
        """Refuse keys that make another question, or whose answer is not read."""
        taken = sorted(OURS & {*request})
        if taken:
            raise ValueError(f"{', '.join(taken)} is set by the stage itself; leave it out")
        return request

    @field_validator("scorers")
    @classmethod
    def _are_once(cls, scorers: tuple[Scorer, ...]) -> tuple[Scorer, ...]:
        twice = sorted({name for name in scorers if scorers.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands twice; leave one")
        return scorers

    @model_validator(mode="after")
    def _fits(self) -> "LabelsConfig":
        prices = self.usd_per_million_in, self.usd_per_million_out
        if self.budget_usd is not None and None in prices:
            raise ValueError(
                "budget_usd needs usd_per_million_in and usd_per_million_out; write the prices, "
                "0 for a server of your own"
            )
        if "embedding" in self.scorers and not self.embedding_model:
            raise ValueError("scorer embedding needs embedding_model; name one or leave it out")
        return self

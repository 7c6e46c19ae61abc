"""Descriptions of experts by a model: what it sees, what becomes of its verdicts, what is refused.

Instead of a server stand brains of known accuracy: one that knows the planted rules, one whose
descriptions are those of other experts, one that guesses.
"""

import asyncio
import json
import re

import numpy as np
import pytest
from expert_world import RANDOM, TOKENS, ExpertRun, ExpertWorld
from fake_asker import FakeAsker, label_in, passages
from llm_server import Server

from deepseemoe.config import LabelsConfig
from deepseemoe.features.halves import is_explaining
from deepseemoe.labels import experts as stage
from deepseemoe.labels.asking.bill import Bill
from deepseemoe.labels.asking.budget import Budget
from deepseemoe.labels.asking.forms import Likelihoods
from deepseemoe.labels.asking.question import Question, Unanswered
from deepseemoe.labels.expert_contexts import Side, contexts_of
from deepseemoe.labels.expert_llm import describe_experts

CONFIG = LabelsConfig(
    labeller="openai", n_examples=60, expert_items=40, expert_others=160, per_prompt=20
)
KNOWN = {text.strip() for text in TOKENS}


class Askers:
    """As a client: hands out askers of one brain."""

    def __init__(self, brain):
        self.bill, self._brain, self.askers = Bill(), brain, []

    def asker(self):
        self.askers.append(FakeAsker(self._brain))
        return self.askers[-1]

    @property
    def questions(self):
        return [question for asker in self.askers for question in asker.questions]


class FakeLabeller:
    """As an `ExpertLabeller` that asks a brain."""

    name = "brain (language model)"

    def __init__(self, config, *, brain, budget=None, seed=0):
        self.client, self._config = Askers(brain), config
        self._budget, self._seed, self.bill = budget or Budget(), seed, self.client.bill

    def label(self, experts, contexts):
        self.contexts = contexts
        return asyncio.run(
            describe_experts(
                experts,
                contexts,
                config=self._config,
                client=self.client,
                budget=self._budget,
                seed=self._seed,
            )
        )


def marked(passage):
    return re.search("«(.*)»", passage)[1]


def brain(label, likely):
    """Return an asker's function of a label for a prompt, and a likelihood for (label, passage)."""

    def answer(question):
        if question.purpose == "explain_expert":
            return {"reasons": "seen", "label": label(question.prompt)}
        told = label_in(question.prompt)
        return {"likely": [likely(told, text) for text in passages(question.prompt)]}

    return answer


def shown(prompt):
    """Return the marked tokens of the passages that were sent to the expert."""
    return [marked(text) for text in passages(prompt.split("was not sent")[0])]


def share_known(prompt):
    return np.mean([token.strip() in KNOWN for token in shown(prompt)])


def oracle(prompt):
    """Describe expert 0 by its rule, expert 1 by what it lacks, others by nothing of use."""
    share = share_known(prompt)
    return {1.0: "one of the words", 0.0: "none of the words"}.get(share, "anything")


def by_rule(label, passage):
    is_known = marked(passage).strip() in KNOWN
    return {"one of the words": 4 * is_known, "none of the words": 4 * (not is_known)}.get(label, 1)


@pytest.fixture(scope="module")
def world():
    return ExpertWorld(noise=0.0, n_tokens=12_000)


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    return ExpertRun(tmp_path_factory.mktemp("run"), world)


def label(run, brain, config=CONFIG, **changes):
    labeller = FakeLabeller(config, brain=brain, **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "ExpertLabeller", lambda *_, **__: labeller)
        experts, scores = run.label(config)
    return experts, scores, labeller


@pytest.fixture(scope="module")
def by_oracle(run):
    return label(run, brain(oracle, by_rule))


def test_an_oracle_predicts_held_out_routing(by_oracle):
    experts, scores, _ = by_oracle
    for expert in (0, 1):
        row = scores[expert, "routing"]
        assert row["f1"] >= 0.98
        assert row["balanced_accuracy"] >= 0.98
        assert row["lift_lo"] > 0
        assert (row["n_positive"], row["n_negative"]) == (40, 160)
        assert experts[expert]["status"] == "labelled"
    assert experts[0]["label"] == "one of the words"
    assert (experts[0]["kind"], experts[0]["labeller"]) == ("model", "brain (language model)")


def test_a_description_that_predicts_nothing_is_not_told(by_oracle):
    experts, _, _ = by_oracle
    for expert in RANDOM:
        assert experts[expert]["label"] == "no preference found"
        assert experts[expert]["status"] == "unclear"
        assert "anything" in experts[expert]["detail"]
        assert "balanced accuracy 0.50" in experts[expert]["reason"]


def test_verdicts_by_chance_have_no_lift_and_the_f1_of_chance(run):
    """Yes to a random half: recall ½, precision 40 of 200, so F1 is 2 · ½ · .2 / .7."""
    rng = np.random.default_rng(0)
    _, scores, _ = label(run, brain(lambda _: "x", lambda *_: int(rng.integers(0, 2)) * 2))
    rows = [scores[expert, "routing"] for expert in range(10)]
    assert np.mean([row["f1"] for row in rows]) == pytest.approx(0.2 / 0.7, abs=0.03)
    assert np.mean([row["balanced_accuracy"] for row in rows]) == pytest.approx(0.5, abs=0.03)
    assert sum(not row["lift_lo"] <= 0 <= row["lift_hi"] for row in rows) <= 2


def test_shuffled_descriptions_are_worth_what_always_is(run):
    """Each expert of the pair 0, 1 is described by the other's rule, all others by nothing."""
    swap = {"one of the words": "none of the words", "none of the words": "one of the words"}
    _, scores, _ = label(run, brain(lambda p: swap.get(oracle(p), "anything"), by_rule))
    for expert in range(10):
        assert scores[expert, "routing"]["f1"] <= scores[expert, "always"]["f1"] + 0.02
        assert scores[expert, "routing"]["lift_lo"] <= 0


def test_2_and_more_is_yes(run):
    _, scores, _ = label(run, brain(lambda _: "x", lambda *_: 1))
    assert scores[0, "routing"]["recall"] == 0
    _, scores, _ = label(run, brain(lambda _: "x", lambda *_: 2))
    assert scores[0, "routing"]["recall"] == 1


def test_passages_to_describe_from_and_to_judge_by_are_of_different_documents(world, by_oracle):
    _, _, labeller = by_oracle
    for contexts in map(labeller.contexts, range(10)):
        described = {one.doc_id for one in [*contexts.shown, *contexts.near]}
        judged = {item.doc_id for item in contexts.items}
        assert described
        assert judged
        assert is_explaining(np.array(sorted(described))).all()
        assert not is_explaining(np.array(sorted(judged))).any()


def test_passages_show_what_was_sent_and_near_misses_the_same_tokens_sent_elsewhere(world):
    run_text = text_of(world)
    explaining, scoring = (Side.of(half, None) for half in run_text.halves())
    random = np.random.default_rng(0)
    found = contexts_of(2, 6, explaining=explaining, scoring=scoring, config=CONFIG, random=random)
    assert len(found.shown) == CONFIG.n_examples
    assert len(found.near) == CONFIG.n_examples // 2
    tokens = {marked(one.marked()) for one in found.shown}
    assert sum(marked(one.marked()) in tokens for one in found.near) == len(found.near)
    assert len({one.doc_id for one in found.shown[:5]}) == 5
    truth = [item.truth for item in found.items]
    assert (sum(truth), len(truth)) == (40, 200)
    assert len(found.shown[0].tokens) <= 33


def text_of(world):
    from deepseemoe.labels.expert_text import RoutedText

    features = np.arange(world.features_TF.shape[1])
    return RoutedText(
        world.reading,
        (2,),
        world.experts_TK[:, None],
        world.weights_TK[:, None],
        features,
        world.features_TF.tocsr(),
    )


def test_only_documents_that_may_be_sent_are_shown(world):
    run_text = text_of(world)
    allowed = np.zeros(int(world.reading.doc_ids.max()) + 1, bool)
    allowed[::3] = True
    explaining, scoring = (Side.of(half, allowed) for half in run_text.halves())
    found = contexts_of(
        2, 0, explaining=explaining, scoring=scoring, config=CONFIG, random=np.random.default_rng(0)
    )
    documents = [one.doc_id for one in [*found.shown, *found.near, *found.items]]
    assert allowed[documents].all()


def test_facts_tell_tokens_domains_and_features(by_oracle):
    _, _, labeller = by_oracle
    prompts = [q.prompt for q in labeller.client.questions if q.purpose == "explain_expert"]
    assert "Tokens that it gets most: “" in prompts[0]
    assert "code (x2." in prompts[2] or "code (x3." in prompts[2] or "code (x4." in prompts[2]
    assert "What features of the text call it, the surest first: token “x”." in prompts[4]
    assert "Features that call it" not in prompts[0]


def test_failures_are_counted_and_never_scored(run):
    rng = np.random.default_rng(1)

    def fails(question):
        if question.purpose == "routing" and rng.random() < 0.3:
            return Unanswered("unreadable", "no JSON")
        return brain(oracle, by_rule)(question)

    experts, scores, _ = label(run, fails)
    row = scores[0, "routing"]
    assert row["f1"] >= 0.98
    assert row["n_failed"] > 0
    assert row["n_failed"] + row["n_positive"] + row["n_negative"] == 200
    assert row["reason"] == f"unreadable {row['n_failed']}"
    experts, scores, _ = label(run, lambda question: Unanswered("refused", "I cannot"))
    assert {one["status"] for one in experts.values()} == {"refused"}
    assert {scores[n, "routing"]["status"] for n in range(10)} == {"refused"}
    assert scores[0, "routing"]["f1"] is None


def test_few_tokens_and_a_small_budget_have_their_status(run):
    few = CONFIG.model_copy(update={"min_contexts": 41})
    experts, _, labeller = label(run, brain(oracle, by_rule), few)
    assert {one["status"] for one in experts.values()} == {"few_contexts"}
    assert not labeller.client.questions
    experts, scores, labeller = label(run, brain(oracle, by_rule), budget=Budget(tokens=1))
    assert {one["status"] for one in experts.values()} == {"budget"}
    assert {scores[n, "routing"]["status"] for n in range(10)} == {"budget"}
    assert not labeller.client.questions


def test_addresses_are_cut_out_of_passages(world):
    reading = world.reading
    texts = list(reading.vocabulary.texts)
    texts[5] = " http://a.org/x"
    changed = type(reading)(
        type(reading.vocabulary)(texts),
        reading.domain_names,
        *(getattr(reading, name) for name in
          ("token_ids", "doc_ids", "positions", "is_valid", "domains")),
    )  # fmt: skip
    side = Side.of(text_of(world)._replace(reading=changed), None)
    place = int(np.flatnonzero((reading.token_ids == 5) & reading.is_valid)[0])
    assert "«⟨url⟩»" in side.passage(place, "x", ("urls",)).marked().replace("« ", "«")
    assert "a.org" in side.passage(place, "x", ()).marked()


def test_the_same_answers_give_the_same_bytes(run):
    label(run, brain(oracle, by_rule))
    names = ("experts.parquet", "expert_scores.parquet")
    first = [(run.folder / name).read_bytes() for name in names]
    label(run, brain(oracle, by_rule))
    assert [(run.folder / name).read_bytes() for name in names] == first


def test_a_real_client_asks_once_and_the_key_stays_in(run, tmp_path, monkeypatch):
    """Against a local server: a second run asks nothing, and nothing written holds the key."""
    key = "sk-not-for-anyones-eyes-9876543210"
    monkeypatch.setenv("DEEPSEEMOE_TEST_KEY", key)

    def says(prompt):
        if not passages(prompt):
            return "{}"  # the client finds out what the server can do
        about = "is known of one expert" in prompt
        question = Question(prompt, Likelihoods, {}, "explain_expert" if about else "routing")
        return json.dumps(brain(oracle, by_rule)(question))

    def asked():
        return [prompt for prompt in server.prompts if passages(prompt)]

    with Server(says, key=key) as server:
        config = LabelsConfig(
            labeller="openai", base_url=server.url, model="tester", n_examples=60,
            api_key_env="DEEPSEEMOE_TEST_KEY", expert_items=20, expert_others=40, per_prompt=20,
        )  # fmt: skip
        files = {"answers": tmp_path / "answers", "bill": tmp_path / "expert_bill.json"}
        experts, scores = run.label(config, **files)
        n_asked = len(asked())
        bill = files["bill"].read_bytes()
        again, _ = run.label(config, **files)
        assert len(asked()) == n_asked == len(set(asked()))
    assert again == experts
    assert files["bill"].read_bytes() == bill
    assert scores[0, "routing"]["f1"] >= 0.98
    purposes = json.loads(bill)["by_purpose"]
    assert purposes["explain_expert"]["calls"] == 10
    assert purposes["routing"]["calls"] > 10 * 3
    written = [path for folder in (tmp_path, run.folder) for path in folder.rglob("*")]
    assert not any(key.encode() in path.read_bytes() for path in written if path.is_file())

"""Errors of the Hub say what the user has to do, in one line, wherever they come from."""

import socket

import httpx2
import pytest
from huggingface_hub import constants, errors

from deepseemoe.config import CorpusConfig, ModelConfig, load_run
from deepseemoe.corpus.tokenizer import prepare_tokenizer
from deepseemoe.model.loading import load_model
from deepseemoe.preflight import problems
from deepseemoe.runtime import hub

NAME = "somebody/some-moe"


def http_error(kind: type[Exception]) -> Exception:
    request = httpx2.Request("GET", "https://huggingface.co")
    return kind("403\nClient Error.", response=httpx2.Response(403, request=request))


ERRORS = {
    "gated": (
        http_error(errors.GatedRepoError),
        "access to it is gated; accept its licence on https://huggingface.co/somebody/some-moe, "
        "then run `hf auth login` or set HF_TOKEN",
    ),
    "private or unknown": (
        http_error(errors.RepositoryNotFoundError),
        "the Hub has no such model, or it is private; check model.name, or run `hf auth login`",
    ),
    "no such revision": (http_error(errors.RevisionNotFoundError), "it has no branch, tag or"),
    "no network": (
        errors.LocalEntryNotFoundError("not\nfound"),
        "not all on this machine, and the Hub cannot be reached; where there is a network, run "
        "`hf download somebody/some-moe`, or name the folder that holds it",
    ),
    "offline": (errors.OfflineModeIsEnabled("offline"), "the Hub cannot be reached"),
    "out of order": (http_error(errors.HfHubHTTPError), "the Hub refused (403 Client Error.)"),
}


@pytest.fixture(params=ERRORS.values(), ids=ERRORS)
def refusal(request, monkeypatch):
    """Have the Hub refuse every file, and return what is to be told."""
    error, told = request.param

    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr("transformers.utils.hub.hf_hub_download", refuse)
    monkeypatch.setattr(hub, "is_offline_mode", lambda: False)
    return told


def test_a_model_that_the_hub_does_not_give_is_told_in_one_line(refusal):
    with pytest.raises(OSError, match=NAME) as caught:
        load_model(ModelConfig(source="hub", name=NAME), None)
    assert refusal in str(caught.value)
    assert "\n" not in str(caught.value)


def test_so_is_its_tokenizer(refusal, tmp_path):
    with pytest.raises(OSError, match=NAME) as caught:
        prepare_tokenizer(
            CorpusConfig(), model_name=NAME, revision=None, folder=tmp_path / "tokenizer", seed=0
        )
    assert refusal in str(caught.value)
    assert "\n" not in str(caught.value)


def test_check_tells_it_before_anything_runs(refusal):
    (told,) = problems(load_run({"model": {"source": "hub", "name": NAME}}))
    assert told.startswith(f"model.name: {NAME}: ")
    assert refusal in told


def test_offline_nothing_is_asked_of_the_hub(monkeypatch):
    def refuse(*args, **kwargs):
        pytest.fail("the network was asked")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    (told,) = problems(load_run({"model": {"source": "hub", "name": NAME}}))
    assert "it is not all on this machine, and HF_HUB_OFFLINE is set" in told


def test_a_name_that_is_none_is_told():
    (told,) = problems(load_run({"model": {"source": "hub", "name": "no such: name"}}))
    assert "this is neither a folder nor a name of the Hub" in told

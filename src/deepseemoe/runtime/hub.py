"""Errors of the Hugging Face Hub, told as what the user has to do.

transformers raises one OSError of several lines for all of them; which one it is stands in the
chain of causes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import is_offline_mode
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

_LOG_IN = "run `hf auth login` or set HF_TOKEN"


class HubError(OSError):
    """The Hub does not give what was asked for; one line says what to do."""


@contextmanager
def hub_errors(name: str, revision: str | None = None) -> Iterator[None]:
    """Raise an error of the Hub as a HubError about the model `name`, and others in one line."""
    try:
        yield
    except (OSError, ValueError) as error:
        told = next(filter(None, (_told(cause, name, revision) for cause in _chain(error))), None)
        if told:
            raise HubError(f"{name}: {told}") from error
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(" ".join(str(error).split())) from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what caused it, the last first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _told(error: BaseException, name: str, revision: str | None) -> str | None:
    """Return what an error of the Hub asks of the user; None for any other."""
    if isinstance(error, GatedRepoError):  # a RepositoryNotFoundError too
        page = f"https://huggingface.co/{name}"
        return f"access to it is gated; accept its licence on {page}, then {_LOG_IN}"
    if isinstance(error, RepositoryNotFoundError):
        return f"the Hub has no such model, or it is private; check model.name, or {_LOG_IN}"
    if isinstance(error, RevisionNotFoundError):
        return f"it has no branch, tag or commit {revision!r}; check model.revision"
    if isinstance(error, HFValidationError):
        return "this is neither a folder nor a name of the Hub, as openai/gpt-oss-20b"
    if isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
        reason = "HF_HUB_OFFLINE is set" if is_offline_mode() else "the Hub cannot be reached"
        return (
            f"it is not all on this machine, and {reason}; where there is a network, run "
            f"`hf download {name}`, or name the folder that holds it"
        )
    if isinstance(error, HfHubHTTPError) and not isinstance(error, EntryNotFoundError):
        return f"the Hub refused ({' '.join(str(error).split())[:200]}); try again later"
    return None

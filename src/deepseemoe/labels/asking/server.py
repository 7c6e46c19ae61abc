"""One request to an OpenAI-compatible server, and what came back in plain data without the key.

Errors of the library hold the request with its headers, so none leaves this file: everything
becomes a Reply.
"""

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

import openai

from deepseemoe.config import LabelsConfig
from deepseemoe.labels.asking.reply import Endpoint, Reply
from deepseemoe.labels.asking.secrets import Scrubber, api_key

CUT = {"ReadError", "WriteError", "CloseError", "RemoteProtocolError", "DecodingError"}
"""Errors of httpx and its successor after a connection was made"""

CONNECT_SECONDS = 10.0
"""Wait for a connection; a server that takes longer is none"""


class Server:
    """Sends requests with the key, each once. Raises Stopped where the key is missing."""

    def __init__(self, config: LabelsConfig):
        key = api_key(config)
        self.scrub = Scrubber(key)
        self._seconds = config.timeout_seconds
        # A redirect is not followed: prompts go to no host that nobody named.
        limit = openai.Timeout(self._seconds, connect=min(CONNECT_SECONDS, self._seconds / 2))
        http = openai.DefaultAsyncHttpxClient(follow_redirects=False, timeout=limit)
        self._client = openai.AsyncOpenAI(
            api_key=key, base_url=config.base_url, max_retries=0, timeout=limit, http_client=http
        )
        for name in ("httpx", "httpx2"):
            logging.getLogger(name).setLevel("WARNING")  # else one line a request

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def post(self, endpoint: Endpoint, body: Mapping[str, Any], key: str) -> Reply:
        """Send one request, marked by its content hash, and return what comes back."""
        try:
            async with asyncio.timeout(self._seconds):
                raw = await self._create(endpoint, body, {"Idempotency-Key": key})
        except openai.APIStatusError as error:
            response = error.response
            return self._reply(response.status_code, response.content, response.headers)
        except (TimeoutError, openai.APITimeoutError) as error:
            is_reached = type(error.__cause__).__name__ != "ConnectTimeout"
            said = f"nothing came for {self._seconds:g} s"
            return Reply(None, "", problem=said, is_reached=is_reached)
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            said = str(cause) or type(cause).__name__
            is_reached = type(cause).__name__ in CUT
            what = "the connection was cut" if is_reached else "no connection"
            said = self.scrub.line(f"{what} ({said})")
            return Reply(None, "", problem=said, is_reached=is_reached)
        except openai.OpenAIError as error:  # a body that cannot be decoded
            return Reply(None, "", problem=self.scrub.line(f"{type(error).__name__}: {error}"))
        return self._reply(raw.status_code, raw.content, raw.headers)

    async def _create(self, endpoint: Endpoint, body: Mapping[str, Any], marks: dict[str, str]):  # type: ignore[no-untyped-def]
        rest = dict(body)
        model = rest.pop("model")
        if endpoint == "embeddings":
            embeddings = self._client.embeddings.with_raw_response
            return await embeddings.create(
                model=model, input=rest.pop("input"), encoding_format="float", extra_headers=marks
            )
        chat = self._client.chat.completions.with_raw_response
        return await chat.create(
            model=model, messages=rest.pop("messages"), extra_body=rest, extra_headers=marks
        )

    def _reply(self, status: int, content: bytes, headers: Mapping[str, str]) -> Reply:
        text = content.decode("utf-8", "replace")  # whatever charset the server claims
        try:
            body = self.scrub.plain(json.loads(text))
        except (ValueError, RecursionError):
            body = self.scrub.line(text)
        lower = {name.lower(): self.scrub(value) for name, value in headers.items()}
        return Reply(status, body, lower | _more_headers(body))


def _more_headers(body: Any) -> dict[str, str]:
    """Return the headers that OpenRouter passes on inside an error."""
    found = body
    for name in ("error", "metadata", "headers"):
        found = found.get(name) if isinstance(found, dict) else None
    return {k.lower(): str(v) for k, v in found.items()} if isinstance(found, dict) else {}

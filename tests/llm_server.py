"""A server on 127.0.0.1 that speaks OpenAI's protocol, answers by a `brain`, and fails by a plan.

    with Server(brain, plan=plan) as server: ...          # in a test
    python tests/llm_server.py --brain oracle --port 8123 # beside a whole run; llm_brains.named

A brain is a function from the prompt to the text of the answer; one with a method
`chances(prompt)` (a list of {alternative: log-probability}, one for each token) gives
log-probabilities too. A plan is a function from the number of the request (from 0) and its body to
a fault of llm_faults.py, or a bare status, or None.
"""

import argparse
import collections
import json
import threading
from pathlib import Path

from llm_faults import error, named_plan
from llm_http import Http, Request, handler, prompt_of


class Server:
    """Answers by `brain`; `structured` and `logprobs` say what becomes of these wishes."""

    def __init__(
        self,
        brain,
        *,
        plan=None,
        structured="ignore",
        logprobs="ignore",
        models=None,
        key=None,
        headers=None,
        seconds=0.0,
        port=0,
        log=None,
    ):
        """Take what the server does.

        structured: enforce, object (json_object only), ignore or reject; logprobs: give, ignore or
        reject; models: names that it knows (any); key: the one it takes (any); headers: of each
        answer, a dict or a function of the request's number; seconds: how long it thinks; log: a
        file for the requests, one JSON object a line.
        """
        self.brain, self.plan = brain, plan or (lambda number, body: None)
        self.structured, self.logprobs = structured, logprobs
        self.models, self.key, self.headers, self.seconds = models, key, headers or {}, seconds
        self.requests: list[Request] = []
        self.n_begun = self.busy = self.most_busy = 0
        self.keys: set[str] = set()
        self._log = Path(log) if log else None
        self._lock, self.stopping = threading.Lock(), threading.Event()
        self._http = Http(("127.0.0.1", port), handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)

    @property
    def port(self):
        return self._http.server_port

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    # What a test asks afterwards

    @property
    def chats(self):
        """Return the requests for chat completions, in order of their beginning."""
        return self._on("/v1/chat/completions")

    @property
    def embeddings(self):
        return self._on("/v1/embeddings")

    @property
    def bodies(self):
        return [one.body for one in self.chats]

    @property
    def prompts(self):
        return [prompt_of(one.body) for one in self.chats]

    def _on(self, path):
        with self._lock:
            found = [one for one in self.requests if one.path == path]
        return sorted(found)

    def counts(self):
        """Return how often each content was asked, by its hash."""
        return collections.Counter(one.digest for one in self.chats + self.embeddings)

    def repeated(self):
        """Return the requests whose content had been answered completely before they began."""
        return repeated(self.chats + self.embeddings)

    def stats(self):
        """Return the counts as plain data; GET /stats gives the same."""
        asked = self.chats + self.embeddings
        return {
            "requests": len(asked),
            "answered": sum(one.is_answered for one in asked),
            "repeated": len(repeated(asked)),
            "most_busy": self.most_busy,
            "by_status": dict(collections.Counter(str(one.status) for one in asked)),
        }

    # What the handler calls

    def begin(self, key):
        with self._lock:
            number = self.n_begun
            self.n_begun += 1
            self.keys.add(key)
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
        return number

    def leave(self):
        """Count a request out; before its answer goes out, as the next comes right after it."""
        with self._lock:
            self.busy -= 1

    def end(self, request):
        with self._lock:
            self.requests.append(request)
            if self._log:
                with self._log.open("a") as lines:
                    lines.write(json.dumps(request._asdict()) + "\n")

    def headers_of(self, number):
        return self.headers(number) if callable(self.headers) else self.headers

    def refusal(self, body, key):
        """Return the fault of a request that asks for what this server does not have, or None."""
        if self.key is not None and key != f"Bearer {self.key}":
            sent = key.removeprefix("Bearer ")  # OpenAI shows the key in part, some show it whole
            return error(
                401,
                f"Incorrect API key provided: {sent[:8]}****{sent[-8:]}.",
                code="invalid_api_key",
            )
        if self.models is not None and body.get("model") not in self.models:
            message = f"The model `{body.get('model')}` does not exist or you do not have access."
            return error(404, message, code="model_not_found")
        return None


def repeated(requests):
    """Return the requests whose content had been answered completely before they began."""
    done = {}
    for one in sorted(requests, key=lambda one: one.ended):
        if one.is_answered:
            done.setdefault(one.digest, one.ended)
    return [one for one in requests if one.began >= done.get(one.digest, float("inf"))]


def main():
    """Serve until killed; print the address first."""
    import llm_brains

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--brain", default="oracle", help="see llm_brains.named")
    parser.add_argument("--plan", default="none", help="see llm_faults.named_plan")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--structured", default="ignore")
    parser.add_argument("--logprobs", default="ignore")
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--key")
    parser.add_argument("--log")
    told = vars(parser.parse_args())
    brain, plan = llm_brains.named(told.pop("brain")), named_plan(told.pop("plan"))
    with Server(brain, plan=plan, **told) as server:
        print(server.url, flush=True)  # noqa: T201
        threading.Event().wait()


if __name__ == "__main__":
    main()

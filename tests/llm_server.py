"""A server on 127.0.0.1 that speaks OpenAI's protocol, answers by a `brain`, and fails by a plan.

    with Server(brain, plan=plan) as server: ...          # in a test
    python tests/llm_server.py --brain oracle --port 8123 # beside a whole run; llm_brains.named

A brain is a function from the prompt to the text of the answer; one with a method
`chances(prompt)` (a list of {alternative: log-probability}, one for each token) gives
log-probabilities too. A plan is a function from the number of the request (from 0) and its body to
a fault of llm_faults.py, or a bare status, or None.
"""

import argparse
import base64
import collections
import hashlib
import json
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import numpy as np
from llm_faults import Fault, error, named_plan
from llm_formats import Refused, in_format

N_DIMENSIONS = 256
POSTS = ("/v1/chat/completions", "/v1/embeddings")


class Request(NamedTuple):
    """One request that came in, and how it ended."""

    number: int
    path: str
    digest: str
    body: dict
    key: str
    began: float
    ended: float
    status: int
    """0: the connection was cut or nobody was there to take the answer"""
    is_answered: bool
    """A whole answer with status 200 went out, readable or not: it has been paid for"""


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
        self._http = _Http(("127.0.0.1", port), _handler(self))
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


def prompt_of(body):
    """Return what the user wrote first; later messages say what was wrong with an answer."""
    content = next(m["content"] for m in body["messages"] if m["role"] == "user")
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def digest_of(path, body):
    """Return the hash of what is asked: the path and the whole body."""
    return hashlib.sha256(json.dumps([path, body], sort_keys=True).encode()).hexdigest()


def embedding(text):
    """Return a unit vector: the words of a text, each hashed to a place and a sign."""
    vector = np.zeros(N_DIMENSIONS, np.float32)
    for word in text.lower().split():
        bits = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little")
        vector[bits % N_DIMENSIONS] += 1 if bits >> 31 else -1
    return vector / max(float(np.linalg.norm(vector)), 1e-9)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request, client_address):
        """Say nothing of clients that went away."""


class _Cut(Exception):
    """The plan cuts this connection."""


def _handler(server):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept, as real servers do
        timeout = 60
        disable_nagle_algorithm = True

        def do_GET(self):
            if self.path == "/v1/models":
                names = server.models or ("any",)
                value = {"object": "list", "data": [{"id": n, "object": "model"} for n in names]}
                refused = server.refusal({"model": names[0]}, self._key())
                self._write(*((200, value) if refused is None else (refused.status, refused.value)))
            elif self.path == "/stats":
                self._write(200, server.stats())
            else:
                self._write(200 if self.path == "/health" else 404, {})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path not in POSTS:
                self._write(404, {"detail": "Not Found"})
                return
            number, began, status, is_whole = server.begin(self._key()), time.monotonic(), 0, False
            self.is_busy = True
            try:
                status = self._answer(number, body)
                is_whole = status == 200
            except (_Cut, OSError):
                self.close_connection = True
            finally:
                self._leave()
                times = began, time.monotonic()
                digest = digest_of(self.path, body)
                server.end(
                    Request(number, self.path, digest, body, self._key(), *times, status, is_whole)
                )

        def _answer(self, number, body):
            fault = server.refusal(body, self._key()) or server.plan(number, body)
            fault = Fault(status=fault) if isinstance(fault, int) else fault or Fault()
            server.stopping.wait(fault.seconds or server.seconds)
            headers = {**server.headers_of(number), **fault.headers}
            if fault.cuts == "before":
                self._cut()
            if fault.status != 200:
                self._write(fault.status, self._echoed(fault.value), headers)
                return fault.status
            try:
                value = self._embeddings(body) if "embed" in self.path else self._chat(body, fault)
            except Refused as refused:
                self._write(400, error(400, str(refused)).value, headers)
                return 400
            self._write(200, value if fault.value is None else fault.value, headers, fault)
            return 200

        def _chat(self, body, fault):
            prompt = prompt_of(body)
            text = server.brain(prompt)
            text = in_format(text, body.get("response_format"), server.structured, prompt)
            if fault.changes is not None:
                text = self._echoed(fault.changes(text))
            message = {"role": "assistant", "content": text, "refusal": fault.refusal}
            choice = {"index": 0, "message": message, "finish_reason": fault.finish_reason}
            if body.get("logprobs") or body.get("top_logprobs"):
                if server.logprobs == "reject":
                    raise Refused("logprobs is not supported with this model")
                if server.logprobs == "give":
                    choice["logprobs"] = {"content": _logprobs(server.brain, prompt, text)}
            n_in = sum(len(str(m["content"]).split()) for m in body["messages"])
            usage = {"prompt_tokens": n_in, "completion_tokens": len((text or "").split())}
            usage["total_tokens"] = sum(usage.values())
            return {
                "id": "chatcmpl-" + digest_of("", body)[:12],
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [choice],
                "usage": usage,
            }

        def _embeddings(self, body):
            texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
            vectors = [embedding(text) for text in texts]
            is_packed = body.get("encoding_format") == "base64"
            packed = [
                base64.b64encode(v.tobytes()).decode() if is_packed else v.tolist() for v in vectors
            ]
            rows = [
                {"object": "embedding", "index": n, "embedding": v} for n, v in enumerate(packed)
            ]
            n_in = sum(len(text.split()) for text in texts)
            usage = {"prompt_tokens": n_in, "total_tokens": n_in}
            return {"object": "list", "data": rows, "model": body["model"], "usage": usage}

        def _write(self, status, value, headers=None, fault=None):
            self._leave()
            text = value if isinstance(value, str) else json.dumps(value)
            reply = text.encode()
            self.send_response(status)
            for name, content in {"content-type": "application/json", **(headers or {})}.items():
                self.send_header(name, str(content))
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            if fault is not None and fault.cuts == "body":
                self.wfile.write(reply[: len(reply) // 2])
                self._cut()
            self.wfile.write(reply)

        def _cut(self):
            self.wfile.flush()
            linger = struct.pack("ii", 1, 0)  # the client sees a reset, not an orderly end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
            raise _Cut

        def _leave(self):
            if getattr(self, "is_busy", False):
                self.is_busy = False
                server.leave()

        def _key(self):
            return self.headers["authorization"] or ""

        def _echoed(self, value):
            """Put the Authorization header where a fault shows it."""
            text = json.dumps(value).replace("@AUTHORIZATION@", json.dumps(self._key())[1:-1])
            return json.loads(text)

        def log_message(self, *_):
            pass

    return Handler


def _logprobs(brain, prompt, text):
    """Return OpenAI's form of the alternatives at each token; a character is a token."""
    alternatives = (
        brain.chances(prompt) if hasattr(brain, "chances") else [{c: -1e-4} for c in text or ""]
    )
    return [
        {
            "token": max(ones, key=ones.get),
            "logprob": max(ones.values()),
            "bytes": None,
            "top_logprobs": [
                {"token": token, "logprob": chance, "bytes": None} for token, chance in ones.items()
            ],
        }
        for ones in alternatives
    ]


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

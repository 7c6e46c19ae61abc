"""The HTTP side of llm_server: reads requests, writes answers, and cuts connections."""

import base64
import hashlib
import json
import socket
import struct
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import numpy as np
from llm_faults import Fault, error
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


class Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request, client_address):
        """Say nothing of clients that went away."""


class _Cut(Exception):
    """The plan cuts this connection."""


def handler(server):
    """Return the class that answers the requests of a server."""

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

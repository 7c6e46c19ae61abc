"""A server that speaks OpenAI's protocol on 127.0.0.1, and contexts whose answers are known.

Feature f fires on the word `word<f>`; every context names its document, as `doc17`.
"""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from deepseemoe.config import LabelsConfig
from deepseemoe.features.halves import is_explaining
from deepseemoe.features.schemas import EXAMPLES
from deepseemoe.labels.asking.probe import PROMPT as PROBE
from deepseemoe.runtime.tables import write_table

KEY = "sk-not-for-anyones-eyes"


class Server:
    """Answers requests by `answer(prompt, number)`: a text, or a status to fail with.

    The tiny requests of the probe have number -1 and are no prompts.
    """

    def __init__(self, answer):
        self.answer, self.prompts, self.bodies, self.keys = answer, [], [], set()
        self.busy = self.most_busy = 0
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))

    @property
    def url(self):
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def _handler(server):  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                status, text = server.reply(body, self.headers["authorization"])
                message = {"role": "assistant", "content": text}
                choice = {"index": 0, "finish_reason": "stop", "message": message}
                fields = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
                value = (
                    {**fields, "choices": [choice]}
                    if status == 200
                    else {"error": {"message": text}}
                )
                reply = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(reply)))
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *_):
                pass

        return Handler

    def reply(self, body, key):
        with self._lock:
            prompt = body["messages"][0]["content"]
            number = -1 if prompt == PROBE else len(self.prompts)
            if prompt != PROBE:
                self.prompts.append(prompt)
                self.bodies.append(body)
            self.keys.add(key)
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
        answered = self.answer(prompt, number)
        with self._lock:
            self.busy -= 1
        return (200, answered) if isinstance(answered, str) else (answered, "planned failure")


def is_detection(prompt):
    return "numbered passages" in prompt


def passages(prompt):
    return re.findall(r"^\d+\. (.*)$", prompt, flags=re.MULTILINE)


def oracle(prompt, number=0):
    """Describe a feature by its marked word, and look for that word in passages."""
    if prompt == PROBE:
        return "Hello."
    if not is_detection(prompt):
        return json.dumps({"reasons": "seen", "label": re.findall(r"«\s*(\w+)»", prompt)[0]})
    label = prompt.split("\n\n")[1].strip()
    return json.dumps({"present": [int(f"{label} " in text) for text in passages(prompt)]})


def make_config(server=None, **changes):
    url = server.url if server else "http://127.0.0.1:9/v1"
    defaults = {"labeller": "openai", "base_url": url, "api_key_env": "DEEPSEEMOE_TEST_KEY"}
    return LabelsConfig(**{**defaults, "max_retries": 1, **changes})


def write_examples(path, *, n_features=3, n_contexts=16):
    """Write contexts with and without each feature, each in a document of its own."""
    rng = np.random.default_rng(0)
    rows, doc_id = [], 0
    for feature in range(n_features):
        for n in range(2 * n_contexts):
            is_on = n < n_contexts
            words = [f" doc{doc_id}", *(f" plain{k}" for k in rng.integers(0, 50, 6)), " end"]
            activations = np.zeros(len(words))
            if is_on:
                words[4], activations[4] = f" word{feature}", 1 + rng.random()
                activations[2] = 0.1  # too little to be marked
            rows.append(
                {
                    "feature": feature,
                    "half": "explain" if is_explaining(np.array([doc_id]))[0] else "score",
                    "group": ("top" if n < 5 else f"q{n % 4}") if is_on else "random",
                    "rank": n,
                    "doc_id": doc_id,
                    "place": 0,
                    "peak": 4,
                    "tokens": words,
                    "token_ids": list(range(len(words))),
                    "activations": activations.tolist(),
                }
            )
            doc_id += 1
    write_table(path, EXAMPLES, rows, {})
    return path

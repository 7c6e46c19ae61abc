"""The process that sends requests: `python -m deepseemoe.labels.asking.carrying`; see courier.py.

It reads a line of JSON for each request, writes one for each reply, and ends with its input. The
key comes in the environment and in no line.
"""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from deepseemoe.config import LabelsConfig
from deepseemoe.labels.asking.courier import LINE_BYTES
from deepseemoe.labels.asking.locks import locked
from deepseemoe.labels.asking.reply import Reply
from deepseemoe.labels.asking.retries import judge
from deepseemoe.labels.asking.server import Server


async def carry() -> None:
    """Send what is asked for until the input ends, then wait for what is under way."""
    lines = asyncio.StreamReader(limit=LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    opening = await lines.readline()
    if not opening:
        return
    message = json.loads(opening)
    late = os.open(message["late"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    if not locked(late):
        return
    config = LabelsConfig.model_validate(message["config"])
    server = Server(config)
    _hand_over({"ready": True})
    held: dict[str, Reply] = {}
    tasks: set[asyncio.Task[None]] = set()
    while (line := await lines.readline()).endswith(b"\n"):
        message = json.loads(line)
        if "received" in message:
            held.pop(message["received"], None)
        else:
            task = asyncio.create_task(_send(server, message, held))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
    leave = partial(_leave, late, key_name=config.api_key_env)
    leave(held)
    while tasks:  # each as it comes, since nobody waits for the last one
        held.clear()
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        leave(held)
    await server.close()


async def _send(server: Server, message: Mapping[str, Any], held: dict[str, Reply]) -> None:
    """Send a request, hold the reply until it is received, and hand it over."""
    key = message["key"]
    try:
        reply = await server.post(message["endpoint"], message["body"], key)
    except Exception as error:  # its text may hold the request with the key
        reply = Reply(None, "", problem=f"the request failed by {type(error).__name__}")
    held[key] = reply
    _hand_over({"key": key, "reply": _plain(reply)})


def _hand_over(message: Mapping[str, Any]) -> None:
    """Write a line for the run; where it is gone, that is found out elsewhere."""
    data = json.dumps(message).encode() + b"\n"
    try:
        while data:
            data = data[os.write(sys.stdout.fileno(), data) :]
    except BrokenPipeError:
        pass


def _leave(late: int, held: Mapping[str, Reply], *, key_name: str) -> None:
    """Write the answers that nobody has to the file of late ones; passing errors are none."""
    for key, reply in held.items():
        if judge(reply, key_name=key_name).step in ("keep", "rejected"):
            os.write(late, json.dumps({"key": key, "reply": _plain(reply)}).encode() + b"\n")


def _plain(reply: Reply) -> dict[str, Any]:
    return {**reply._asdict(), "headers": dict(reply.headers)}


if __name__ == "__main__":
    if os.fork():  # who kills all children of the run does not find this one
        os._exit(0)
    asyncio.run(carry())

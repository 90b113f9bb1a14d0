"""One side of a comparison: a process that exchanges JSON objects, one per line, over pipes."""

import gc
import json
import os
import sys
from collections.abc import Callable
from typing import Any


def serve(
    hello: Callable[[str], dict[str, Any]],
    prepare: Callable[[dict[str, Any]], tuple[dict, dict]] | None,
) -> None:
    """Answers until its input ends. What libraries print goes to standard error.

    Requests: {"ask": "hello", "device": ...}, {"ask": "prepare", "case": {...}}, {"ask": "start" or
    "time", "name": ..., "calls": n}.

    Args:
        hello: from the requested device ("auto", "cpu" or "gpu") to what to report of device and
            versions.
        prepare: from a case to facts about it and the makers of its contenders by name. A contender
            makes a given number of calls and returns {"seconds": total, ...} with what to check.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    makers = {}
    running = {}

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if request["ask"] == "hello":
            return hello(request["device"])
        if request["ask"] == "prepare":
            running.clear()
            makers.clear()
            gc.collect()
            facts, contenders = prepare(request["case"])
            makers.update(contenders)
            return {"facts": facts, "names": list(contenders)}
        name = request["name"]
        if request["ask"] == "start":
            running[name] = makers[name]()
        return running[name](request["calls"])

    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except Exception as error:  # a failing contender must not end the comparison
            reply = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()

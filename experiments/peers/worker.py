"""One side of a comparison, in a process of its own that is asked over pipes: one JSON object a line, both ways."""

import gc
import json
import os
import sys


def serve(hello, prepare):
    """Answers until its input ends. What libraries print goes to standard error.

    Asked: {"ask": "hello", "device": ...}, {"ask": "prepare", "case": {...}}, {"ask": "start" or "time", "name": ...,
    "calls": n}.

    Args:
        hello: function of the device wanted ("auto", "cpu" or "gpu") -> what to tell of device and versions.
        prepare: function of a case -> facts about it, and name -> function that makes a contender: a function that
            calls what is timed so many times, and returns {"seconds": of all of them, and what to check}.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    makers, running = {}, {}

    def answer(ask):
        if ask["ask"] == "hello":
            return hello(ask["device"])
        if ask["ask"] == "prepare":
            running.clear()
            makers.clear()
            gc.collect()
            facts, found = prepare(ask["case"])
            makers.update(found)
            return {"facts": facts, "names": list(found)}
        if ask["ask"] == "start":
            running[ask["name"]] = makers[ask["name"]]()
        return running[ask["name"]](ask["calls"])

    for line in sys.stdin:
        try:
            found = answer(json.loads(line))
        except Exception as error:  # one contender that fails is a line of the report, not the end of it
            found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        answers.write(json.dumps(found) + "\n")
        answers.flush()

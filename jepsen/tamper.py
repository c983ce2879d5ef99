#!/usr/bin/env python3
"""Changes one thing in the history of a run that passed, so that `jepsen check` must fail: it checks the checkers.

    python3 jepsen/tamper.py KIND history.jsonl changed.jsonl && jepsen check changed.jsonl

Without arguments: the kinds, and the rules that must notice.
"""
import json
import sys

LOG, SMALL = "broker-a/jepsen-log", "broker-a/jepsen-small"


def op(event, name):
    return event["op"].get(name) if isinstance(event["op"], dict) else None


def middle(events, wanted):
    """The place of one of the events that are wanted: what is near the ends may be special."""
    places = [at for at, event in enumerate(events) if wanted(event)]
    if not places:
        sys.exit("the history holds nothing of the kind")
    return places[len(places) // 2]


def done(name, more=lambda op: True):
    return lambda event: event["type"] == "ok" and op(event, name) is not None and more(op(event, name))


def ack_offset(events):
    at = middle(events, done("send", lambda send: send["queue"].startswith(LOG)))
    events[at]["op"]["send"]["offset"] += 1


def drain_drop(events):
    at = middle(events, done("drain", lambda drain: drain["way"] == "pull" and drain.get("messages")))
    messages = events[at]["op"]["drain"]["messages"]
    del messages[len(messages) // 2]


def read_drop(events):
    at = middle(events, done("pull", lambda pull: pull["assigned"] and len(pull.get("messages", [])) > 3))
    del events[at]["op"]["pull"]["messages"][1]


def read_swap(events):
    at = middle(events, done("pull", lambda pull: len(pull.get("messages", [])) > 3))
    one, other = events[at]["op"]["pull"]["messages"][:2]
    one[1], other[1] = other[1], one[1]


def stale_end(events):
    at = middle(events, done("max-offset", lambda end: end["queue"].startswith(SMALL) and end["offset"] > 3))
    events[at]["op"]["max-offset"]["offset"] -= 3


def refused(events):
    at = middle(events, done("send"))
    send = events[at]["op"]["send"]
    events[at].update(type="fail", code=14, op={"send": {"queue": send["queue"], "value": send["value"]}})


def two_leaders(events):
    at = middle(events, done("node", lambda node: node.get("leads")))
    other = json.loads(json.dumps(events[at]))
    other["op"]["node"]["node"] = other["op"]["node"]["node"] % 3 + 1
    events.insert(at + 1, other)


def two_votes(events):
    at = middle(events, done("node", lambda node: node.get("vote")))
    other = json.loads(json.dumps(events[at]))
    vote = other["op"]["node"]["vote"]
    other["op"]["node"]["vote"] = {"term": vote["term"], "node": vote["node"] % 3 + 1}
    events.insert(at + 1, other)


def live_digest(events):
    at = middle(events, done("digest", lambda digest: digest.get("live") and digest["what"] == "table"))
    events[at]["op"]["digest"]["hash"] = "another"


def digest(events):
    at = middle(events, done("digest", lambda digest: digest["what"] == "log" and not digest.get("live")))
    events[at]["op"]["digest"]["hash"] = "another"


def no_fault(events):
    for event in events:
        if op(event, "nemesis"):
            event["op"]["nemesis"]["effects"] = []


def old_commit(events):
    at = middle(events, done("query", lambda query: query.get("offset")))
    events[at]["op"]["query"]["offset"] = 1


def lost_topic(events):
    at = middle(events, done("topic-read", lambda read: read["current"] and read.get("config")))
    del events[at]["op"]["topic-read"]["config"]


def group_skip(events):
    at = middle(events, done("deliver"))
    events[at]["op"]["deliver"]["messages"].pop()
    if not events[at]["op"]["deliver"]["messages"]:
        del events[at]


def early(events):
    """A consumer has a delayed message when it was just sent."""
    at = middle(events, lambda event: event["type"] == "invoke" and (op(event, "send-later") or {}).get("delay", {}).get("ms", 0) > 900)
    value = op(events[at], "send-later")["value"]
    has = lambda event: any(read[1] == value for read in (op(event, "pull") or {}).get("messages", []))
    pulls = [n for n, event in enumerate(events) if has(event)]
    if not pulls:
        sys.exit("nobody got the message")
    # the pull that brought it, and what was open then, come as much too early as its process allows
    event = json.loads(json.dumps(events[pulls[0]]))
    process = 1 + max(event["process"] for event in events)
    pull = event["op"]["pull"]
    asked = {**events[at], "process": process, "op": {"pull": {key: pull[key] for key in ("queue", "from")} | {"assigned": False}}}
    got = {**event, "process": process, "t_ns": events[at]["t_ns"]}
    got["op"]["pull"]["assigned"] = False
    events[at + 1 : at + 1] = [asked, got]


def never(events):
    """A delayed message is not there in the end, nor has anybody got it."""
    at = middle(events, done("send-later"))
    value = op(events[at], "send-later")["value"]
    for event in events:
        for name in ("pull", "drain"):
            messages = (op(event, name) or {}).get("messages", [])
            messages[:] = [read for read in messages if read[1] != value]


def acked_again(events):
    """What was acknowledged comes once more."""
    at = middle(events, done("ack"))
    message = events[at]["op"]["ack"]["messages"][0]
    pops = [n for n, event in enumerate(events) if n > at and event["type"] == "ok" and op(event, "pop")]
    again = {**message, "queue": "broker-a/%RETRY%jepsen-pop-group_jepsen-pop/0", "offset": 10**6, "attempt": 9}
    events[pops[-1]]["op"]["pop"].setdefault("messages", []).append(again)


def never_popped(events):
    """Nobody got a message that was acknowledged to its producer."""
    at = middle(events, done("send", lambda send: "jepsen-pop" in send["queue"]))
    value = events[at]["op"]["send"]["value"]
    for event in events:
        for name in ("pop", "ack"):
            messages = (op(event, name) or {}).get("messages", [])
            messages[:] = [message for message in messages if message["value"] != value]


def two_hands(events):
    """A message is handed out to another consumer at the same time."""
    at = middle(events, done("pop", lambda pop: pop.get("messages")))
    pop = events[at]["op"]["pop"]
    again = {**pop["messages"][0], "queue": "broker-a/%RETRY%jepsen-pop-group_jepsen-pop/0", "offset": 10**6, "attempt": 9}
    pop["messages"].append(again)


def ended(how):
    return done("end-transaction", lambda end: end["how"] == how and not end.get("over"))


def rolled_back(events):
    """What was committed had been rolled back."""
    at = middle(events, ended("commit"))
    value = op(events[at], "end-transaction")["value"]
    for event in events:
        end = op(event, "end-transaction")
        if end and end["value"] == value:
            end["how"] = "rollback"


def committed(events):
    """What was rolled back had been committed."""
    at = middle(events, ended("rollback"))
    value = op(events[at], "end-transaction")["value"]
    for event in events:
        end = op(event, "end-transaction")
        if end and end["value"] == value:
            end["how"] = "commit"


def never_asked(events):
    """The broker forgot a transaction that was left open."""
    at = middle(events, lambda event: op(event, "check-transaction") is not None)
    value = op(events[at], "check-transaction")["value"]
    gone = ("check-transaction", "end-transaction")
    events[:] = [event for event in events if not any((op(event, name) or {}).get("value") == value for name in gone)]


# Each with the workload that it needs.
KINDS = {
    "ack-offset": (ack_offset, "log", "L1 L4 L7 P1"),
    "drain-drop": (drain_drop, "log", "L2 L4 L12"),
    "read-drop": (read_drop, "log", "L2"),
    "read-swap": (read_swap, "log", "L1 L7 L10 P1"),
    "stale-end": (stale_end, "log", "L11 P1"),
    "refused": (refused, "log", "L5 P1"),
    "two-leaders": (two_leaders, "log", "I"),
    "two-votes": (two_votes, "log", "I"),
    "digest": (digest, "log", "L12"),
    "live-digest": (live_digest, "log", "L12"),
    "no-fault": (no_fault, "log, with faults", "C (invalid)"),
    "old-commit": (old_commit, "registers", "P2"),
    "lost-topic": (lost_topic, "topics", "P3"),
    "group-skip": (group_skip, "group", "L9"),
    "early": (early, "delay", "T"),
    "never": (never, "delay", "T L2 L12"),
    "acked-again": (acked_again, "pop", "Q"),
    "never-popped": (never_popped, "pop", "Q"),
    "two-hands": (two_hands, "pop", "Q"),
    "rolled-back": (rolled_back, "transaction", "X"),
    "committed": (committed, "transaction", "X"),
    "never-asked": (never_asked, "transaction", "X"),
}


def main():
    if len(sys.argv) != 4 or sys.argv[1] not in KINDS:
        for name, (_, workload, rules) in KINDS.items():
            print(f"{name:12} workload {workload:18} noticed by {rules}")
        sys.exit(2)
    kind, source, target = sys.argv[1:]
    with open(source, encoding="utf-8") as lines:
        events = [json.loads(line) for line in lines]
    KINDS[kind][0](events)
    with open(target, "w", encoding="utf-8") as out:
        for event in events:
            out.write(json.dumps(event, separators=(",", ":")) + "\n")


main()

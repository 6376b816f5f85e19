"""The questions are asked, and meanwhile one expert's pods are deleted and another's are killed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from openai import OpenAI
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from demo.asking import Answer, ask
from demo.disruption import Engines, requests_in_flight
from demo.promises import Disruption, broken_by_deletion, broken_by_kill, broken_by_questions
from demo.questions import Question, make_long_questions, read_questions
from stack.flotilla import Stack

ASK_AT_ONCE = 4
DELETED_EXPERT = "general"
KILLED_EXPERT, KILLED_TASK = "arithmetic", "math"
"""The quickstart's rule sends this task to this expert, so that its unfinished answers may come from the fallback."""
DELETE_AFTER, BACK_AFTER = 12, 18
KILL_AFTER, RESTARTED_AFTER = 28, 34
"""After how many questions pods are deleted or killed, and after how many the demo waits until they are back."""
STREAMS, WHOLE = 3, 3
"""Requests that are in flight at a disruption."""

AskSome = Callable[[Sequence[Question]], list[Answer]]


@dataclass(frozen=True, slots=True)
class Session:
    """Everything that was asked."""

    answers: list[Answer]
    deletion: Disruption
    kill: Disruption

    @property
    def everything(self) -> list[Answer]:
        """Answers to questions, then to the requests that a disruption met."""
        return [*self.answers, *self.deletion.answers, *self.kill.answers]

    def broken_promises(self) -> list[str]:
        """Empty when the demo ended well."""
        broken = (broken_by_questions(self.answers), broken_by_deletion(self.deletion), broken_by_kill(self.kill))
        return [line for lines in broken for line in lines]


@dataclass(frozen=True, slots=True)
class Fleet:
    """The experts of one namespace and a client of their gateway."""

    stack: Stack
    namespace: str
    client: OpenAI
    ready_seconds: float
    """How long an expert may take until it is back."""

    def engines(self, expert: str) -> Engines:
        """The engines of one expert."""
        return Engines(self.stack, self.namespace, expert)

    def wait_ready(self, expert: str) -> None:
        """The expert answers, with all of its replicas."""
        found = self.stack.cluster.kubectl("get", "expert", expert, "-n", self.namespace, "-o", "json")
        replicas = json.loads(found)["spec"].get("replicas", 1)
        timeout = f"--timeout={self.ready_seconds:.0f}s"
        for state in ("condition=Ready", f"jsonpath={{.status.replicas}}={replicas}"):
            wait = ("wait", f"--for={state}", f"expert/{expert}", "-n", self.namespace, timeout)
            self.stack.cluster.kubectl(*wait, timeout_seconds=self.ready_seconds + 10)


def run_session(console: Console, fleet: Fleet) -> Session:
    """Every question is asked, in order; mid-run one expert's pods are deleted, later another's are killed."""
    questions = read_questions()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with (
        Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress,
        ThreadPoolExecutor(ASK_AT_ONCE) as pool,
    ):
        task = progress.add_task("asking", total=len(questions))
        say = partial(progress.console.print, highlight=False)

        def ask_some(some: Sequence[Question]) -> list[Answer]:
            return list(_counted(pool.map(partial(ask, fleet.client), some), partial(progress.advance, task)))

        fleet.wait_ready(DELETED_EXPERT)
        answers = ask_some(questions[:DELETE_AFTER])
        deletion, more = _delete(fleet, partial(ask_some, questions[DELETE_AFTER:BACK_AFTER]), say)
        fleet.wait_ready(DELETED_EXPERT)
        answers += more + ask_some(questions[BACK_AFTER:KILL_AFTER])
        kill, more = _kill(fleet, partial(ask_some, questions[KILL_AFTER:RESTARTED_AFTER]), say)
        fleet.wait_ready(KILLED_EXPERT)
        answers += more + ask_some(questions[RESTARTED_AFTER:])
    return Session(answers, deletion, kill)


def _counted(answers: Iterator[Answer], count: Callable[[], None]) -> Iterator[Answer]:
    for answer in answers:
        count()
        yield answer


def _delete(
    fleet: Fleet, meanwhile: Callable[[], list[Answer]], say: Callable[[str], None]
) -> tuple[Disruption, list[Answer]]:
    """The pods are deleted while they work on pinned requests, which nobody else may answer."""
    engines = fleet.engines(DELETED_EXPERT)
    questions = make_long_questions(streams=STREAMS, whole=WHOLE, model=DELETED_EXPERT)
    with requests_in_flight(fleet.client, questions, engines, committed=False) as flying:
        pods = engines.names()
        engines.delete(pods)
        running = flying.running()
        say(f"deleted with {running} requests running, and draining: {', '.join(pods)}")
        answers = meanwhile()
        return Disruption(DELETED_EXPERT, pods, running, flying.answers()), answers


def _kill(
    fleet: Fleet, meanwhile: Callable[[], list[Answer]], say: Callable[[str], None]
) -> tuple[Disruption, list[Answer]]:
    """The engines are killed while they work on pinned, committed streams, and on whole answers, never committed."""
    engines = fleet.engines(KILLED_EXPERT)
    streams = make_long_questions(streams=STREAMS, whole=0, model=KILLED_EXPERT)
    whole = make_long_questions(streams=0, whole=WHOLE, task=KILLED_TASK)
    with requests_in_flight(fleet.client, [*streams, *whole], engines, committed=True) as flying:
        pods, running = engines.names(), flying.running()
        engines.kill(pods)
        say(f"SIGKILL with {running} requests running: {', '.join(pods)}")
        answers = meanwhile()
        return Disruption(KILLED_EXPERT, pods, running, flying.answers()), answers

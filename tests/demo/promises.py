"""What is promised to requests that run when an expert's pods are deleted or killed, and whether it is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from demo.asking import Answer, Ending


@dataclass(frozen=True, slots=True)
class Disruption:
    """Pods of one expert were deleted or killed, and what became of the requests that they were working on."""

    expert: str
    pods: Sequence[str]
    running: int
    """Requests that were not over when it happened."""
    answers: Sequence[Answer]


def broken_by_deletion(deletion: Disruption) -> Iterator[str]:
    """A line for each request that the drained pods did not finish themselves, and one if some were over before."""
    if deletion.running < len(deletion.answers):
        yield f"only {deletion.running} of {len(deletion.answers)} requests were running when the pods were deleted"
    for answer in deletion.answers:
        if not answer.is_complete:
            yield _broken(answer, f"was not finished by its draining pod: {_ended(answer)}")
        elif answer.model != deletion.expert or answer.attempts != 1:
            yield _broken(
                answer, f"was answered by {answer.model} in {answer.attempts} attempts: its pod did not drain"
            )


def broken_by_kill(kill: Disruption) -> Iterator[str]:
    """A line for each committed stream without an error event, and for each whole answer that nobody else gave.

    | request | promise |
    |---|---|
    | a stream whose first words were sent | it ends in an error event |
    | an answer of which nothing was sent | it is complete, after another attempt |
    """
    for answer in kill.answers:
        if answer.question.stream:
            if answer.ending is not Ending.ERROR_EVENT or not answer.events:
                yield _broken(answer, f"was committed and did not end in an error event: {_ended(answer)}")
        elif not answer.is_complete:
            yield _broken(answer, f"was not committed and nobody else answered: {_ended(answer)}")
        elif answer.attempts < 2:
            yield _broken(answer, "was over before the engine was killed")


def broken_by_questions(answers: Iterable[Answer]) -> Iterator[str]:
    """A line for each question that has no complete answer."""
    return (_broken(answer, _ended(answer)) for answer in answers if not answer.is_complete)


def _broken(answer: Answer, what: str) -> str:
    return f"{answer.question.id} {what}"


def _ended(answer: Answer) -> str:
    return f"{answer.ending}: {answer.error}" if answer.error else answer.ending

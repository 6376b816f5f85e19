"""Many rows judged at once, each written down as soon as it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import islice

from .chat import ChatError, Endpoint, HopelessError, ask
from .judging import Answer, Judge, JudgingError, Row, judged_row, rating_question, read_rating

FAILURES_IN_A_ROW = 10
"""After which the rest is not tried."""
RATING_TOKENS = 1024
ANSWER_TOKENS = 1024
CLIPPED_CHARACTERS = 1024
"""Of a prompt in a log that may have had more."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A row that could not be judged, and why."""

    id: str
    reason: str


class StoppedError(Exception):
    """Going on would be in vain; the message says why. What was judged before is done."""


def model_judge(endpoint: Endpoint) -> Judge:
    """A judge that asks a model for a rating.

    Its judgements raise a JudgingError where the model gives none, and a ChatError where it does not answer.
    """

    def judge(row: Row, answer: Answer) -> float:
        return read_rating(ask(endpoint, rating_question(row, answer), max_tokens=RATING_TOKENS).text)

    return judge


def with_answers(row: Row, models: Sequence[Endpoint]) -> Row:
    """The row with an answer of each of the models; those that it has are not asked for.

    Raises:
        JudgingError: another model answered, or the row's prompt is not whole.
        ChatError: a model does not answer.
    """
    missing = [model for model in models if model.model not in {*row.answers, *row.outcomes}]
    if missing and row.logged is not None and len(row.prompt) >= CLIPPED_CHARACTERS:
        raise JudgingError("the log holds only the beginning and the end of its prompt, which cannot be asked again")
    return replace(row, answers={**row.answers, **{model.model: _answer(row, model) for model in missing}})


def label_rows(
    rows: Iterable[Row], judge: Judge, models: Sequence[Endpoint], *, at_once: int
) -> Iterator[Row | Failed]:
    """Every row judged, or why not, as they come: not in order.

    Raises:
        StoppedError: an address, model or key is wrong, or ten rows in a row failed for want of an answer.
    """
    pool = ThreadPoolExecutor(at_once)
    waiting = iter(rows)
    unanswered = 0
    try:
        running = {pool.submit(_label, row, judge, models) for row in islice(waiting, 2 * at_once)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(_label, row, judge, models) for row in islice(waiting, len(done))}
            for each in done:
                labelled, answered = _result(each)
                yield labelled
                unanswered = 0 if answered else unanswered + 1
                if unanswered >= FAILURES_IN_A_ROW and isinstance(labelled, Failed):
                    raise StoppedError(f"{unanswered} rows in a row failed, the last one: {labelled.reason}")
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _result(future: Future[tuple[Row | Failed, bool]]) -> tuple[Row | Failed, bool]:
    try:
        return future.result()
    except HopelessError as error:
        raise StoppedError(str(error)) from error


def _label(row: Row, judge: Judge, models: Sequence[Endpoint]) -> tuple[Row | Failed, bool]:
    """The row, or why not; and whether those who were asked answered."""
    try:
        return judged_row(with_answers(row, models), judge), True
    except JudgingError as error:
        return Failed(row.id, str(error)), True
    except HopelessError:
        raise
    except ChatError as error:
        return Failed(row.id, str(error)), False


def _answer(row: Row, model: Endpoint) -> Answer:
    reply = ask(model, row.prompt, max_tokens=ANSWER_TOKENS)
    if reply.model != model.model:
        raise JudgingError(f"{reply.model} answered in place of {model.model}")
    return Answer(reply.text, reply.usd)

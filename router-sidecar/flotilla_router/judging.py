"""Asks learned routing about requests, and counts and logs what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .decisions import Decision
from .errors import quote
from .incoming import Incoming, Problem
from .learned import Judgement, Learned, Prompt
from .logs import RequestRecord, ShadowRecord
from .openai import ParsedRequest
from .registry import Live
from .telemetry import Telemetry
from .text import opening_of, prompt_text
from .trials import named_session, session_of
from .vectors import Asked, Vectors, vectors_in

THRESHOLD_HEADER = b"x-flotilla-threshold"
_MOST_HEADER_BYTES = 32
_NO_OPINION = "none"


class Judge:
    """One for all requests."""

    def __init__(self, learned: Learned, telemetry: Telemetry, draw: Callable[[], float], vectors: Vectors) -> None:
        """draw: uniform in [0, 1)."""
        self.learned = learned
        self._telemetry = telemetry
        self._draw = draw
        self._vectors = vectors

    def ask_vectors(self, live: Live, request: ParsedRequest, incoming: Incoming) -> Asked | None:
        """What has to be there before the request can be judged; None: nothing, as for a prompt without text."""
        endpoints = self.learned.endpoints
        if not endpoints or incoming.review is not None or not _has_choice(live, request):
            return None
        text = prompt_text(request)
        return self._vectors.ask(live, endpoints, text) if text.strip() else None

    def judge(
        self, live: Live, request: ParsedRequest, incoming: Incoming, *, counts: bool = True
    ) -> Judgement | Problem | None:
        """What is said of a request; None: there is nothing to choose, or a sidecar has chosen.

        counts: False if it is only explained.
        """
        learned = self.learned
        if not learned.ranks or incoming.review is not None or not _has_choice(live, request):
            return None
        asked = None if learned.bounds is None else threshold_in(incoming.headers, learned.bounds)
        if isinstance(asked, Problem):
            return asked
        session = b""
        if learned.tries:
            session = named_session(incoming.headers, learned.session_headers) or session_of(
                incoming.client, opening_of(request)
            )
        prompt = Prompt(prompt_text(request), asked, vectors_in(incoming.vectors), session)
        return learned.judge(prompt, self._draw, counts=counts)

    def note(self, judgement: Judgement | None, decision: Decision, record: RequestRecord) -> None:
        """Count and log what came of it."""
        record.propensity = decision.propensity
        if judgement is None:
            return
        self._telemetry.ranked(judgement.role, _result(judgement, decision), decision.first.name)
        if judgement.opinion is not None:
            record.score = round(judgement.opinion.score, 6)
        if decision.ranked:
            record.artifact = judgement.artifact

    def begin_shadow(
        self, live: Live, request: ParsedRequest, headers: Mapping[bytes, bytes], record: RequestRecord, model: str
    ) -> None:
        """Have a share of the requests scored by the shadow's artifact, once they are on their way, and log it.

        model: who was chosen first.
        """
        learned = self.learned
        if not _has_choice(live, request) or not learned.takes_shadow(self._draw()):
            return
        asked = None if learned.bounds is None else threshold_in(headers, learned.bounds)
        prompt = Prompt(prompt_text(request), None if isinstance(asked, Problem) else asked, {})
        endpoint = learned.shadow_endpoint
        if endpoint is None or not prompt.text.strip():
            self._shadow(prompt, record, model)
            return
        vectors = self._vectors.ask(live, (endpoint,), prompt.text)
        vectors.add_done_callback(lambda found: self._shadow(prompt._replace(vectors=vectors_in(found)), record, model))

    def _shadow(self, prompt: Prompt, record: RequestRecord, model: str) -> None:
        found = self.learned.shadow(prompt, self._draw())
        if found is None:
            return
        digest, opinion = found
        preferred = opinion.order[0] if opinion.order else None
        record.shadow = ShadowRecord(artifact=digest, score=round(opinion.score, 6), model=preferred)
        self._telemetry.shadowed(model, preferred or _NO_OPINION)


def threshold_in(headers: Mapping[bytes, bytes], bounds: tuple[float, float]) -> float | Problem | None:
    """The threshold that a request asks for, moved to the nearer bound where it is outside; None: it asks for none."""
    value = headers.get(THRESHOLD_HEADER)
    if value is None:
        return None
    try:
        asked = float(value) if len(value) <= _MOST_HEADER_BYTES else float("nan")
    except ValueError:
        asked = float("nan")
    if asked != asked:  # noqa: PLR0124 - NaN alone is not itself
        shown = quote(value.decode("latin-1"))
        message = f'{THRESHOLD_HEADER.decode()} is "{shown}"; it must be a number, such as 0.42.'
        return Problem(status=400, message=message, code="invalid_threshold")
    lowest, highest = bounds
    return min(max(asked, lowest), highest)


def _has_choice(live: Live, request: ParsedRequest) -> bool:
    """Whether the request asks for an alias, not for a model by name."""
    return request.model in live.table.aliases and request.model not in live.table.pins


def _result(judgement: Judgement, decision: Decision) -> str:
    if judgement.artifact is None:
        return "not_loaded"
    if judgement.opinion is None or not judgement.opinion.order:
        return "no_score"
    if not decision.ranked:
        return "none_eligible"
    return "explored" if decision.reason == "Explored" else "ranked"

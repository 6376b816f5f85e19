"""What the demo prints: a row per question, and the totals that the routers' own log lines add up to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import JustifyMethod
from rich.markup import escape
from rich.table import Table

from demo.asking import Answer, Ending
from demo.promises import Disruption

LogLine = Mapping[str, Any]
_SIMULATED = "[simulated "  # how every answer of a simulated engine or provider begins


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per million tokens."""

    input_usd: float
    output_usd: float

    def of(self, line: LogLine) -> float:
        """Dollars for the tokens of the attempt that answered."""
        attempt = _answering(line)
        tokens_in, tokens_out = attempt.get("input_tokens") or 0, attempt.get("output_tokens") or 0
        return (tokens_in * self.input_usd + tokens_out * self.output_usd) / 1e6


def read_request_lines(logs: Iterable[str]) -> dict[str, LogLine]:
    """Request id -> canonical log line, out of the routers' logs."""
    lines = (json.loads(line) for log in logs for line in log.splitlines() if line.startswith("{"))
    return {line["request_id"]: line for line in lines if "request_id" in line and "attempts" in line}


def answers_table(answers: Sequence[Answer], lines: Mapping[str, LogLine], fallbacks: frozenset[str]) -> Table:
    """Who answered, why, in how many milliseconds and for how many dollars."""
    table = _make_table(f"{len(answers)} questions", _ANSWER_COLUMNS)
    for answer in answers:
        line = lines.get(answer.request_id)
        table.add_row(
            answer.question.id,
            _how_asked(answer),
            answer.model,
            answer.reason,
            str(answer.attempts),
            f"{answer.milliseconds:.0f}",
            f"{line['cost_usd']:.7f}" if line else "-",
            _what_answered(answer),
            escape(answer.error or _first_words(answer.text)),
            style=_style(answer, fallbacks),
        )
    return table


def disruption_table(
    what: str, disruption: Disruption, lines: Mapping[str, LogLine], fallbacks: frozenset[str]
) -> Table:
    """What became of each request that ran when the pods of an expert were deleted or killed."""
    title = f"{disruption.running} requests that ran when the pods of {disruption.expert} were {what}"
    table = _make_table(title, _DISRUPTION_COLUMNS)
    for answer in disruption.answers:
        table.add_row(
            answer.question.id,
            _how_asked(answer),
            answer.model,
            answer.reason,
            escape("\n".join(_attempts(lines.get(answer.request_id)))),
            str(answer.events) if answer.question.stream else "-",
            f"{answer.milliseconds:.0f}",
            _what_answered(answer),
            escape(f"{answer.ending}: {answer.error}" if answer.error else str(answer.ending)),
            style=_style(answer, fallbacks),
        )
    return table


_ANSWER_COLUMNS: tuple[tuple[str, JustifyMethod], ...] = (
    ("question", "left"),
    ("as", "left"),
    ("answered by", "left"),
    ("why", "left"),
    ("attempts", "right"),
    ("ms", "right"),
    ("$", "right"),
    ("from", "left"),
    ("answer", "left"),
)
_DISRUPTION_COLUMNS: tuple[tuple[str, JustifyMethod], ...] = (
    ("request", "left"),
    ("as", "left"),
    ("answered by", "left"),
    ("why", "left"),
    ("attempts, by the router's log", "left"),
    ("events", "right"),
    ("ms", "right"),
    ("from", "left"),
    ("ended", "left"),
)
_WRAPPED = frozenset({"answer", "ended"})


def _make_table(title: str, columns: Iterable[tuple[str, JustifyMethod]]) -> Table:
    table = Table(title=title, title_style="bold")
    for heading, justify in columns:
        table.add_column(heading, justify=justify, no_wrap=heading not in _WRAPPED, overflow="ellipsis")
    return table


def _how_asked(answer: Answer) -> str:
    return "stream" if answer.question.stream else "json"


def _style(answer: Answer, fallbacks: frozenset[str]) -> str | None:
    if answer.ending is not Ending.COMPLETE:
        return "red"
    return "yellow" if answer.model in fallbacks else None


def _what_answered(answer: Answer) -> str:
    """Whether a simulated model or a real one wrote the text; every hop to it is real."""
    if not answer.text:
        return "-"
    return "simulated" if answer.text.startswith(_SIMULATED) else "real model"


def _attempts(line: LogLine | None) -> list[str]:
    """`where: how it went`, an attempt each."""
    attempts: Sequence[Mapping[str, Any]] = line["attempts"] if line else []
    return [f"{each['endpoint'] or each['target']}: {each['result']}" for each in attempts]


@dataclass(frozen=True, slots=True)
class Totals:
    """What all requests add up to."""

    requests: int
    failed: int
    escalated: Mapping[str, int]
    """Requests that left an expert, by cause."""
    spend_usd: float
    fallback_usd: float
    """What the same tokens would have cost at the fallback's price."""

    @property
    def saving(self) -> float:
        """1 - spend / the same tokens at the fallback's price."""
        return 1 - self.spend_usd / self.fallback_usd if self.fallback_usd else 0.0


def add_up(answers: Sequence[Answer], lines: Mapping[str, LogLine], price: Price, fallbacks: frozenset[str]) -> Totals:
    """The totals of the requests that the routers logged."""
    seen = [lines[answer.request_id] for answer in answers if answer.request_id in lines]
    causes = Counter(_cause(line) for line in seen if line["model"] in fallbacks)
    return Totals(
        requests=len(answers),
        failed=sum(not answer.is_complete for answer in answers),
        escalated=dict(causes.most_common()),
        spend_usd=sum(line["cost_usd"] for line in seen),
        fallback_usd=sum(price.of(line) for line in seen),
    )


def totals_table(totals: Totals) -> Table:
    """The totals as a table."""
    table = Table(title="Totals", title_style="bold", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("requests", str(totals.requests))
    table.add_row("failed", str(totals.failed))
    for cause, count in totals.escalated.items():
        table.add_row(f"escalated: {cause}", f"{count} ({count / totals.requests:.0%})")
    table.add_row("spend", f"${totals.spend_usd:.6f}")
    table.add_row("the same tokens at the fallback's price", f"${totals.fallback_usd:.6f}")
    table.add_row("saving", f"{totals.saving:.0%}")
    return table


def _cause(line: LogLine) -> str:
    """The first attempt's own reason to leave; a request that never tried an expert has the router's reason."""
    left = next((attempt["result"] for attempt in line["attempts"] if attempt["result"] != "ok"), None)
    return left or str(line["reason"])


def _answering(line: LogLine) -> Mapping[str, Any]:
    attempts: Sequence[Mapping[str, Any]] = line["attempts"]
    by_model = [attempt for attempt in attempts if attempt["target"] == line["model"]]
    return (by_model or [{}])[-1]


def _first_words(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 44 else f"{flat[:43]}…"

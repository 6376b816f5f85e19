"""Where requests come from: Azure's traces, ServeGen's clients, our routers' request log, and samples of their kind."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TextIO

import numpy as np

from .workload import Engine, Floats, Workload

WINDOW_SECONDS = 600.0


class TraceError(Exception):
    """A trace cannot be read; the message names the file, the line and what was expected."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lognormal token counts."""

    prompt_log_mean: float = 6.633
    prompt_log_deviation: float = 0.985
    output_log_mean: float = 5.019
    output_log_deviation: float = 0.859
    longest_prompt: int = 14_050
    longest_output: int = 1000
    factor: float = 1.0
    """Of both lengths, the longest included."""

    def sample(self, count: int, random: np.random.Generator) -> tuple[Floats, Floats]:
        """Prompt and output tokens of `count` requests."""
        prompts = random.lognormal(self.prompt_log_mean, self.prompt_log_deviation, count)
        outputs = random.lognormal(self.output_log_mean, self.output_log_deviation, count)
        return (
            np.maximum(1, np.minimum(prompts, self.longest_prompt) * self.factor),
            np.maximum(1, np.minimum(outputs, self.longest_output) * self.factor),
        )

    def mean_work_seconds(self, engine: Engine) -> float:
        """Seconds of a whole replica that a request takes on average."""
        prompts, outputs = self.sample(20_000, np.random.default_rng(0))
        return float(engine.work_seconds(prompts, outputs).mean())


CONVERSATION = Lengths()
"""Fitted to the logarithms of the Azure 2023 conversation trace; cut at its longest."""


@dataclass(frozen=True, slots=True)
class Window:
    """Ten minutes of one client: a renewal process."""

    start: float
    rate: float
    """Requests a second."""
    kind: str
    """Gamma, Weibull, or '' for Poisson."""
    shape: float

    def gaps(self, count: int, random: np.random.Generator) -> Floats:
        """Gaps of mean 1 between arrivals."""
        if self.kind == "Gamma":
            return random.gamma(self.shape, 1 / self.shape, count)
        if self.kind == "Weibull":
            return random.weibull(self.shape, count) / math.gamma(1 + 1 / self.shape)
        return random.exponential(1.0, count)


@dataclass(frozen=True, slots=True)
class Client:
    """A ServeGen client: its windows, in their order."""

    windows: tuple[Window, ...]

    @property
    def seconds(self) -> float:
        """How long it is known."""
        return len(self.windows) * WINDOW_SECONDS

    @property
    def mean_rate(self) -> float:
        """Requests a second over the whole time."""
        return sum(window.rate for window in self.windows) / len(self.windows)

    def sample(self, start: float, end: float, *, rate_factor: float, lengths: Lengths, seed: int) -> Workload:
        """Requests of [start, end), whole windows. Rates are multiplied; the shape of the gaps stays.

        The same seed gives the same requests. A window's gaps start anew at its beginning.
        """
        random = np.random.default_rng(seed)
        chosen = [window for window in self.windows if start <= window.start < end]
        arrivals = np.concatenate([_arrivals(window, rate_factor, random) for window in chosen]) - start
        prompts, outputs = lengths.sample(len(arrivals), random)
        return Workload(arrivals, prompts.astype(np.int64), outputs.astype(np.int64), len(chosen) * WINDOW_SECONDS)


def _arrivals(window: Window, rate_factor: float, random: np.random.Generator) -> Floats:
    rate = window.rate * rate_factor
    if rate <= 0:
        return np.zeros(0)
    parts: list[Floats] = []
    reached = 0.0
    while reached < WINDOW_SECONDS:
        count = int((WINDOW_SECONDS - reached) * rate * 1.2) + 16
        parts.append(reached + np.cumsum(window.gaps(count, random) / rate))
        reached = float(parts[-1][-1])
    found = np.concatenate(parts)
    return found[found < WINDOW_SECONDS] + window.start


def read_client(path: Path) -> Client:
    """A ServeGen chunk: rows of start, rate, coefficient of variation, distribution, shape and scale, without a header.

    Raises:
        TraceError: a row is none of that kind.
    """
    with open_text(path) as text:
        windows = [_window(path, number, row) for number, row in enumerate(csv.reader(text), 1)]
    if not windows:
        raise TraceError(f"{path}: holds no window")
    return Client(tuple(windows))


def _window(path: Path, number: int, row: list[str]) -> Window:
    try:
        start, rate, _, kind, shape, _ = row
        return Window(float(start), float(rate), kind, float(shape))
    except ValueError as error:
        raise TraceError(f"{path}:{number}: expected start,rate,cv,distribution,shape,scale: {error}") from error


def read_azure(path: Path) -> Workload:
    """A trace of the Azure LLM inference data set: TIMESTAMP,ContextTokens,GeneratedTokens.

    Raises:
        TraceError: a row is none of that kind.
    """
    with open_text(path) as text:
        return _workload(path, _azure_rows(path, text))


def _azure_rows(path: Path, text: TextIO) -> Iterator[tuple[float, int, int]]:
    for number, row in enumerate(csv.DictReader(text), 2):
        try:
            moment = datetime.fromisoformat(row["TIMESTAMP"][:26])
            yield moment.timestamp(), int(row["ContextTokens"]), int(row["GeneratedTokens"])
        except (KeyError, ValueError) as error:
            raise TraceError(f"{path}:{number}: expected TIMESTAMP,ContextTokens,GeneratedTokens: {error}") from error


def read_request_log(path: Path) -> Workload:
    """The routers' log: JSON lines; lines that are no requests, and attempts without token counts, are passed over.

    Raises:
        TraceError: a line is no JSON object, or no request is left.
    """
    with open_text(path) as text:
        return _workload(path, _log_rows(path, text))


def _log_rows(path: Path, text: TextIO) -> Iterator[tuple[float, int, int]]:
    for number, line in enumerate(text, 1):
        try:
            record = json.loads(line)
            if record.get("event") != "request" or record.get("relayed"):
                continue
            arrived = float(record["time"]) - float(record.get("duration_ms", 0.0)) / 1000
            counted = next((each for each in record["attempts"] if each.get("output_tokens")), None)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise TraceError(f"{path}:{number}: no line of a router's request log: {error}") from error
        if counted is not None:
            yield arrived, int(counted.get("input_tokens") or 1), int(counted["output_tokens"])


def _workload(path: Path, rows: Iterable[tuple[float, int, int]]) -> Workload:
    found = sorted(rows)
    if not found:
        raise TraceError(f"{path}: holds no request")
    table = np.array(found)
    arrivals = table[:, 0] - table[0, 0]
    tokens = np.maximum(1, table[:, 1:]).astype(np.int64)
    return Workload(arrivals, tokens[:, 0].copy(), tokens[:, 1].copy(), float(arrivals[-1]) + 1.0)


def open_text(path: Path) -> TextIO:
    """The file as text, decompressed where its name ends in .gz.

    Raises:
        TraceError: it cannot be opened.
    """
    try:
        if path.suffix == ".gz":
            return gzip.open(path, "rt", encoding="utf-8", newline="")
        return path.open(encoding="utf-8", newline="")
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from error

"""Many sidecars' ends of the control API in one process: each polls as a router does, with its own pod's token.

Prints one JSON object for each snapshot that all of them have got: {"digest", "first", "last"}, the last two in seconds
since the epoch, and a line of text whenever a poll fails. Ends with SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from flotilla_api.control import Problem
from flotilla_api.snapshot import RoutingSnapshot
from flotilla_router.__main__ import ControlClient
from flotilla_router.control import SnapshotSource
from flotilla_router.upstream import Upstreams


@dataclass(frozen=True, slots=True)
class Hearing:
    """When each snapshot reached the followers."""

    followers: int
    times: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict[str, list[float]](list))

    def heard(self, digest: str) -> None:
        """One more follower has it; once all have, that is said."""
        times = self.times[digest]
        times.append(time.time())
        if len(times) == self.followers:
            print(json.dumps({"digest": digest, "first": times[0], "last": times[-1]}), flush=True)


class Follower:
    """What a router keeps of snapshots, as far as its polls depend on it. Implements control.Store."""

    def __init__(self, hearing: Hearing) -> None:
        self._hearing = hearing
        self.digest = ""

    def offer(self, data: bytes) -> str | None:
        """The snapshot is in use from now on."""
        RoutingSnapshot.model_validate_json(data)
        self.digest = RoutingSnapshot.digest_of(data)
        self._hearing.heard(self.digest)
        return None

    def problems(self) -> Sequence[Problem]:
        """Nothing is missing."""
        return ()

    def connected(self, error: str | None) -> None:
        """Say what went wrong, on standard output."""
        if error:
            print(error, flush=True)


async def _follow(arguments: argparse.Namespace) -> None:
    tokens = sorted(path for path in arguments.tokens.iterdir())
    hearing = Hearing(len(tokens))
    upstreams = Upstreams(asyncio.get_running_loop())
    async with asyncio.TaskGroup() as group:
        for folder in tokens:
            client = ControlClient(upstreams)
            source = SnapshotSource(Follower(hearing), client, arguments.snapshot, folder)
            group.create_task(source.follow(arguments.url, arguments.namespace, arguments.policy, random.random))


def main() -> None:
    """Follow until told to end."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("url", "namespace", "policy"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--snapshot", type=Path, required=True, help="folder with the control API's authority")
    parser.add_argument("--tokens", type=Path, required=True, help="folder with one folder for each follower's token")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_follow(parser.parse_args()))


if __name__ == "__main__":
    main()

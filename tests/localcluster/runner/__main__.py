"""`python -m localcluster.runner --config FILE`: run the pods of a local cluster until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from pathlib import Path

import uvloop

from localcluster.config import RunnerConfig
from localcluster.runner.runner import run


def main() -> int:
    """Run until told to stop; 0 then, 1 if this machine cannot run pods."""
    parser = argparse.ArgumentParser(prog="localcluster.runner", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the cluster's RunnerConfig, as JSON")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    try:
        uvloop.run(_run_until_signalled(RunnerConfig.read(arguments.config)))
    except (RuntimeError, OSError) as error:
        logging.getLogger(__name__).error("the pod runner cannot go on: %s", error)
        return 1
    return 0


async def _run_until_signalled(config: RunnerConfig) -> None:
    task = asyncio.ensure_future(run(config))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


if __name__ == "__main__":
    sys.exit(main())

"""`python -m fakes.provider`: an external provider of a large model, which is a paid API and cannot run here.

The engine simulator's server with OpenAI's errors and without vLLM's extra fields, paths and metrics. It takes the
engine's flags; the key also comes from `API_KEY`, so that it need not be a process argument. `SIM_REFUSE_PARAMS` names
request fields that are answered with a 400 (`min_p,top_k`; a nested one as `stream_options.continuous_usage_stats`).
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fakes.engine import cli
from fakes.engine.dialect import ProviderDialect
from fakes.engine.run import run
from fakes.engine.settings import EngineSettings


def parse(argv: Sequence[str], env: Mapping[str, str]) -> EngineSettings:
    """Return the provider's settings: tools work without flags, and no model files are looked for."""
    settings = cli.parse(argv, env)
    keys = settings.api_keys or ((env["API_KEY"],) if env.get("API_KEY") else ())
    return replace(
        settings,
        api_keys=keys,
        enable_auto_tool_choice=True,
        tool_call_parser=settings.tool_call_parser or "hermes",
        behaviour=replace(settings.behaviour, check_model_files=False),
    )


def main() -> int:
    """Serve until told to stop; return the exit code."""
    return run(parse(sys.argv[1:], os.environ), ProviderDialect())


if __name__ == "__main__":
    sys.exit(main())

"""The command line and the environment of a simulated engine."""

from __future__ import annotations

import math

import pytest

from fakes import provider
from fakes.engine import cli
from fakes.engine.settings import Adapter


def test_the_operators_command_line_is_understood():
    """The image's entry point, the model and what an operator passes become the engine's settings."""
    settings = cli.parse(
        [
            *("serve", "/models/acme/small", "--served-model-name", "invoice", "other", "--host", "127.0.0.5"),
            *("--port", "8001", "--tensor-parallel-size", "2", "--max-num-seqs", "64", "--max-model-len", "8k"),
            *("--gpu-memory-utilization=0.9", "--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
            *("--enable-lora", "--max-loras", "2", "--max-lora-rank", "16", "--lora-modules", "a=/models/a"),
            *("--shutdown-timeout", "30", "--disable-log-requests", "--enable-prompt-tokens-details"),
        ],
        {},
    )

    assert (settings.model, settings.served_names) == ("/models/acme/small", ("invoice", "other"))
    assert (settings.host, settings.port, settings.max_num_seqs, settings.max_model_len) == (
        "127.0.0.5",
        8001,
        64,
        8000,
    )
    assert (settings.gpu_memory_utilization, settings.shutdown_timeout_seconds) == (0.9, 30.0)
    assert (settings.enable_lora, settings.max_loras, settings.adapters) == (True, 2, (Adapter("a", "/models/a"),))
    assert (settings.enable_auto_tool_choice, settings.enable_prompt_tokens_details) == (True, True)


def test_the_model_is_also_a_flag_and_names_the_served_model():
    """Without a served name the model's own name is served; underscores in flags are dashes."""
    settings = cli.parse(["--model", "acme/small", "--max_model_len", "1K", "--no-enable-prefix-caching"], {})

    assert settings.served_names == ("acme/small",)
    assert settings.max_model_len == 1024
    assert settings.enable_prefix_caching is False


@pytest.mark.parametrize(
    ("argv", "env", "message"),
    [
        pytest.param(["m", "--tensor-paralel-size", "2"], {}, "unrecognized arguments", id="misspelt flag"),
        pytest.param(["m", "--port", "http"], {}, "invalid int value", id="wrong type"),
        pytest.param(["m", "--max-model-len", "lots"], {}, "lots is not a size", id="wrong size"),
        pytest.param(["m", "--enable-auto-tool-choice"], {}, "requires --tool-call-parser", id="half of a pair"),
        pytest.param(["m"], {"SIM_SKILL": "1.5"}, "SIM_SKILL=1.5 is not between 0 and 1", id="skill out of range"),
        pytest.param(["m"], {"SIM_SKIL": "1"}, "unknown variable SIM_SKIL", id="misspelt variable"),
        pytest.param(["m"], {"SIM_FAIL_AT_LOAD": "fire"}, "neither oom nor crash", id="unknown failure"),
        pytest.param(["m", "--lora-modules", "a"], {}, "takes name=path", id="adapter without a path"),
    ],
)
def test_wrong_input_exits_with_usage(
    argv: list[str], env: dict[str, str], message: str, capsys: pytest.CaptureFixture[str]
):
    """As vLLM's own parser: usage and the reason on stderr, exit code 2."""
    with pytest.raises(SystemExit) as stopped:
        cli.parse(argv, env)

    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_rates_default_to_no_time_at_all():
    """A rate that is absent or 0 takes no time; the others are tokens a second."""
    sim = cli.parse(["m"], {"SIM_PREFILL_TOKENS_PER_SECOND": "0", "SIM_DECODE_TOKENS_PER_SECOND": "50"}).behaviour

    assert (sim.prefill_rate, sim.decode_rate, sim.sequence_rate) == (math.inf, 50.0, math.inf)


def test_the_environment_gives_vllms_key_and_modes():
    """What vLLM reads from its environment is read here too."""
    settings = cli.parse(
        ["m"], {"VLLM_API_KEY": "k", "VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    )

    assert (settings.api_keys, settings.dev_mode, settings.runtime_lora) == (("k",), True, True)


def test_a_provider_takes_its_key_from_the_environment():
    """So that it is not in a process's arguments; tools need no flags there."""
    settings = provider.parse(["--model", "big-1"], {"API_KEY": "secret", "SIM_REFUSE_PARAMS": "min_p, top_k"})

    assert settings.api_keys == ("secret",)
    assert settings.enable_auto_tool_choice
    assert settings.behaviour.refuse_params == {"min_p", "top_k"}

"""A simulator of vLLM 0.32's OpenAI server: its paths, errors, metrics and queueing, with made-up answers.

`python -m fakes.engine serve MODEL [vLLM flags]`, or with `--model MODEL`. Behaviour that a real engine gets from its
hardware and weights comes from `SIM_*` variables (see `settings.py`), faults from `POST /sim/faults` (see `faults.py`).
"""

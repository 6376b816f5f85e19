"""`python -m fakes.hf download REPO`: the `hf` command of huggingface_hub without a hub.

It writes a small `config.json` and a `model.safetensors` with no weights, into `--local-dir` or into the hub's cache
layout under `HF_HOME`, and prints the folder. A repository whose name contains `missing` is not found; one that
contains `gated` needs a token; a revision that contains `missing` is not found. It takes `SIM_DOWNLOAD_SECONDS`.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer_config.json")


class HubError(Exception):
    """The hub refused; the text is what the command prints."""


def main(
    argv: Sequence[str] | None = None,
    env: Mapping[str, str] = os.environ,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Run the command; return the exit code."""
    args = _parser().parse_args(argv)
    if args.local_dir and args.cache_dir:
        print("Error: Cannot use both `--local-dir` and `--cache-dir` at the same time.", file=sys.stderr)
        return 1
    repo, revision = _reference(args.repo_id, args.revision)
    try:
        check_access(repo, revision, args.token or env.get("HF_TOKEN"), env)
    except HubError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    sleep(float(env.get("SIM_DOWNLOAD_SECONDS") or 0))
    wanted = [name for name in FILES if _is_wanted(name, args.filenames, args.include, args.exclude)]
    folder = Path(args.local_dir) if args.local_dir else cache_folder(repo, revision, args.cache_dir, env)
    write_files(folder, repo, wanted)
    print(folder.resolve())
    return 0


def check_access(repo: str, revision: str, token: str | None, env: Mapping[str, str]) -> None:
    """Ask the imagined hub whether `repo` may be read.

    Raises:
        HubError: it may not.
    """
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo):
        raise HubError(
            f"Invalid value. Repo id must be in the form 'repo_name' or 'namespace/repo_name': '{repo}'. "
            "Use `repo_type` argument if needed."
        )
    if env.get("HF_HUB_OFFLINE", "") in {"1", "true", "TRUE", "yes", "on"}:
        raise HubError("Cannot reach the hub: offline mode is enabled. Set 'HF_HUB_OFFLINE=0' to download.")
    url = f"https://huggingface.co/api/models/{repo}/revision/{revision}"
    if "missing" in repo:
        raise HubError(
            f"404 Client Error. (RepositoryNotFoundError) Repository Not Found for url: {url}.\n"
            "Repository not found. Check the `repo_id` and `repo_type` parameters. If the repo is private, make sure "
            "you are authenticated."
        )
    if "gated" in repo and not token:
        raise HubError(
            f"401 Client Error. (GatedRepoError) Cannot access gated repo for url {url}.\n"
            f"Access to model {repo} is restricted. You must have access to it and be authenticated to access it."
        )
    if "missing" in revision:
        raise HubError(
            f"404 Client Error. (RevisionNotFoundError) Revision Not Found for url: {url}.\n"
            "Revision not found. Check the `revision` parameter."
        )


def cache_folder(repo: str, revision: str, cache_dir: str | None, env: Mapping[str, str]) -> Path:
    """Return the snapshot's folder in the hub's cache layout, and point the revision's name at it."""
    home = Path(env.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    hub = Path(cache_dir or env.get("HF_HUB_CACHE") or home / "hub")
    folder = hub / f"models--{repo.replace('/', '--')}"
    commit = (
        revision if re.fullmatch(r"[0-9a-f]{40}", revision) else hashlib.sha1(f"{repo}@{revision}".encode()).hexdigest()
    )
    if commit != revision:
        reference = folder / "refs" / revision
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(commit)
    return folder / "snapshots" / commit


def write_files(folder: Path, repo: str, names: Sequence[str]) -> None:
    """Write the model's files; each appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        part = folder / f".{name}.incomplete"
        part.write_bytes(_content(name, repo))
        part.replace(folder / name)


def _content(name: str, repo: str) -> bytes:
    if name == "model.safetensors":
        header = json.dumps({"__metadata__": {"format": "pt", "simulated": "true", "repo": repo}}).encode()
        return len(header).to_bytes(8, "little") + header
    if name == "config.json":
        return json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "simulated": True}).encode()
    return b"{}"


def _reference(repo: str, revision: str | None) -> tuple[str, str]:
    """Split `hf://namespace/name@revision`, or take both apart."""
    if repo.startswith("hf://"):
        repo, _, found = repo.removeprefix("hf://").partition("@")
        revision = revision or found or None
    return repo, revision or "main"


def _is_wanted(name: str, names: Sequence[str], include: Sequence[str] | None, exclude: Sequence[str] | None) -> bool:
    if names:
        return name in names
    if include and not any(fnmatch.fnmatch(name, pattern) for pattern in include):
        return False
    return not any(fnmatch.fnmatch(name, pattern) for pattern in exclude or ())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hf")
    download = parser.add_subparsers(required=True, metavar="command").add_parser("download")
    download.add_argument("repo_id")
    download.add_argument("filenames", nargs="*")
    download.add_argument("--repo-type", choices=["model"], default="model")
    download.add_argument("--revision")
    download.add_argument("--include", action="append")
    download.add_argument("--exclude", action="append")
    download.add_argument("--cache-dir")
    download.add_argument("--local-dir")
    download.add_argument("--force-download", action="store_true")
    download.add_argument("--token")
    download.add_argument("--max-workers", type=int, default=8)
    download.add_argument("--quiet", "-q", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())

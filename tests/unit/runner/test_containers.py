"""Container processes under private roots, as root and through a user namespace."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
import uvloop

from localcluster.runner.containers import ContainerProcess, ContainerSpec, Exit, StartError, process_tree
from localcluster.runner.environment import Command
from localcluster.runner.volumes import Bind

NAMESPACES = [pytest.param(True, id="user namespace")]
if os.geteuid() == 0:
    NAMESPACES.append(pytest.param(False, id="root"))
Make = Callable[..., ContainerSpec]


@pytest.fixture(params=NAMESPACES)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Makes a container that runs a shell script, with /etc/hosts of its own and a volume at /var/run/secrets/v."""
    volume, own = tmp_path / "volume", tmp_path / "own"
    volume.mkdir()
    own.mkdir()
    (volume / "note").write_text("from the volume")
    (own / "hosts").write_text("127.96.0.9 web\n")

    def of(*argv: str, read_only: bool = False, read_only_root: bool = False) -> ContainerSpec:
        return ContainerSpec(
            command=Command(argv, {"PATH": "/usr/bin:/bin", "WHO": "me"}, "/tmp"),
            directory=tmp_path / "container",
            state_dir=tmp_path,
            log=tmp_path / "log",
            hostname="web-0",
            binds=[Bind(str(volume), "/var/run/secrets/v", read_only), Bind(str(own), "/.pod", read_only=True)],
            links={"/etc/hosts": "/.pod/hosts"},
            read_only_root=read_only_root,
            user_namespace=request.param,
        )

    return of


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


async def _to_its_end(spec: ContainerSpec) -> tuple[Exit, str]:
    process = await ContainerProcess.start(spec)
    ended = await process.wait()
    process.discard()
    return ended, spec.log.read_text()


@asynccontextmanager
async def _running(spec: ContainerSpec, *, until: str) -> AsyncGenerator[ContainerProcess]:
    """The container, once it has written that; it is killed afterwards."""
    process = await ContainerProcess.start(spec)
    try:
        await _printed(spec, until)
        yield process
    finally:
        process.send(SIGKILL)
        await process.wait()


async def _printed(spec: ContainerSpec, text: str) -> None:
    while text not in spec.log.read_text():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def _shell(script: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", script)


def test_container_sees_its_own_world(make: Make) -> None:
    """A container has its volumes, its names and its processes only, and its exit code is reported."""
    script = "echo $$; hostname; pwd; cat /var/run/secrets/v/note; echo; getent hosts web; ls -d /proc/[0-9]* | wc -l"

    ended, printed = _run(_to_its_end(make(*_shell(f"{script}; exit 3"))))

    assert (ended.code, ended.signal) == (3, 0)
    lines = printed.splitlines()
    assert lines[:4] == ["1", "web-0", "/tmp", "from the volume"]
    assert lines[4].split() == ["127.96.0.9", "web"]
    assert int(lines[5]) <= 3


def test_writes_stay_inside(make: Make, tmp_path: Path) -> None:
    """The host does not see what a container writes outside its volumes, nor is any of it left afterwards."""
    mark = tmp_path / "mark"
    spec = make(*_shell(f"echo x > {mark}; cat {mark}; echo y > /var/run/secrets/v/new; mkdir -p /made/here"))

    _, printed = _run(_to_its_end(spec))

    assert printed == "x\n"
    assert not mark.exists()
    assert (tmp_path / "volume" / "new").read_text() == "y\n"
    assert not Path("/made/here").exists()
    assert not spec.directory.exists()


def test_read_only_volumes_and_roots(make: Make, tmp_path: Path) -> None:
    """A read-only root leaves writable volumes writable; a read-only volume is not."""
    script = "touch /tmp/x /etc/x || echo root; touch /var/run/secrets/v/x || echo volume; touch /dev/shm/x && echo shm"

    _, strict = _run(_to_its_end(make(*_shell(script), read_only_root=True)))
    (tmp_path / "log").unlink()
    _, fixed = _run(_to_its_end(make(*_shell(script), read_only=True)))

    assert [line for line in strict.splitlines() if "touch" not in line] == ["root", "shm"]
    assert [line for line in fixed.splitlines() if "touch" not in line] == ["volume", "shm"]


def test_nothing_of_a_container_outlives_its_first_process(make: Make) -> None:
    """When the first process is killed, what it started in sessions of their own ends too."""

    async def work() -> tuple[Exit, list[int]]:
        spec = make(*_shell("setsid sleep 1000 & echo up; exec sleep 1000"))
        async with _running(spec, until="up") as process:
            members = process_tree(process.pid)
            process.send(SIGKILL)
            return await process.wait(), members

    ended, members = _run(work())

    assert (ended.code, ended.signal) == (137, 9)
    assert len(members) >= 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in members)


def test_command_runs_inside(make: Make) -> None:
    """A command in a running container has its root, its environment and its directory, and is ended when it hangs."""

    async def work() -> None:
        spec = make(*_shell("echo mine > /tmp/mine; echo up; exec sleep 1000"))
        async with _running(spec, until="up") as process:
            told = await process.execute(_shell("cat mine; pwd; echo $WHO; exit 4"), 10)
            hung = await process.execute(_shell("sleep 1000"), 0.2)
            left = await process.execute(_shell(r"cat /proc/[0-9]*/cmdline | tr '\0' '\n' | grep -c ^1000"), 10)

            assert (told.code, told.output.split()) == (4, ["mine", "/tmp", "me"])
            assert hung.code is None
            assert left.output == "1\n"

    _run(work())


def test_memory_of_all_processes_counts(make: Make) -> None:
    """Memory is that of the container's processes together, without what they share with the file system."""

    async def work() -> int:
        hoard = "import time; x = bytearray(30 << 20); print('up', flush=True); time.sleep(1000)"
        spec = make(*_shell(f'{sys.executable} -c "{hoard}" & {sys.executable} -c "{hoard}"'))
        async with _running(spec, until="up\nup\n") as process:
            return process.memory_bytes()

    assert 60 << 20 < _run(work()) < 120 << 20


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        pytest.param(["nope"], 'exec: "nope": executable file not found in $PATH', id="not on the PATH"),
        pytest.param(["/nope"], 'exec: "/nope": no such file or directory', id="no such file"),
        pytest.param(["/etc/passwd"], 'exec: "/etc/passwd": permission denied', id="not executable"),
    ],
)
def test_program_that_cannot_run(make: Make, argv: list[str], message: str) -> None:
    """What is wrong with a command is said as container engines do."""
    with pytest.raises(StartError) as refused:
        _run(ContainerProcess.start(make(*argv)))

    assert str(refused.value) == message


def test_what_stands_in_for_the_image_stays_in_sight(make: Make, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A volume that covers a folder of the image, as one at /tmp may, hides everything there but that folder."""
    covered = tmp_path_factory.mktemp("covered")
    (covered / "programs").mkdir()
    (covered / "programs" / "tool").write_text("here")
    (covered / "other").touch()
    spec = make(*_shell(f"cat {covered}/programs/tool; test -e {covered}/other || echo hidden"))
    volume = Bind(spec.binds[0].source, str(covered), read_only=False)

    _, text = _run(_to_its_end(replace(spec, binds=[*spec.binds, volume], folders=[f"{covered}/programs"])))

    assert text == "herehidden\n"

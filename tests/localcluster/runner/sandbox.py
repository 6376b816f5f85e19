"""Runs one container's process under a private root: `python -I -S sandbox.py DESCRIPTOR`.

The descriptor is a stream socket: this script reads its instructions from it (JSON, up to the end of the stream) and
reports on it, a line each: first `pid N` (the process id outside, once its program runs) or `error TEXT`, at the end
`exit CODE SIGNAL`.

The process is the first of a PID namespace, so that whatever it starts ends with it, and it ends with this script,
which ends with the runner. Its root is an overlay over the host's: what it writes goes to the container's own
directory. Mounts of the host are overlaid too, or, where that is not possible, seen read-only. As root this needs no
more than CAP_SYS_ADMIN; everyone else gets a user namespace. Only the standard library, one thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWUSER, CLONE_NEWPID = 0x20000, 0x4000000, 0x10000000, 0x20000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
KERNEL_FILESYSTEMS = frozenset(
    {"autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs"}
    | {"fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "rpc_pipefs", "securityfs", "sysfs", "tracefs"}
)
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
FRESH = ("/proc", "/sys", "/dev")
OLD_ROOT = "/.host"

_libc = ctypes.CDLL(None, use_errno=True)


def main(descriptor: int) -> int:
    """Run the container to its end; the exit code of its process, or 128 + the signal that ended it."""
    channel = socket.socket(fileno=descriptor)
    channel.set_inheritable(False)
    spec = json.loads(b"".join(iter(lambda: channel.recv(65536), b"")))
    try:
        _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _unshare(user=spec["user_namespace"])
        _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # unsharing clears it
        if os.getppid() != spec["parent"]:
            return 1
        reader, writer = os.pipe()  # closed by the kernel when the child becomes the container's program
        child = os.fork()
    except OSError as error:
        _report(channel, f"error cannot make namespaces: {error.strerror}")
        return 1
    if child == 0:
        channel.close()
        _become(spec, writer)
    os.close(writer)
    with os.fdopen(reader) as failure:
        message = failure.read()
    _report(channel, f"error {message}" if message else f"pid {child}")
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    _report(channel, f"exit {code} 0" if code >= 0 else f"exit {128 - code} {-code}")
    return code if code >= 0 else 128 - code


def _report(channel: socket.socket, line: str) -> None:
    channel.sendall(f"{line}\n".encode(errors="replace"))


def _call(name: str, *args: Any) -> None:
    if getattr(_libc, name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _unshare(*, user: bool) -> None:
    outer = (os.getuid(), os.getgid())
    _call("unshare", CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWPID | (CLONE_NEWUSER if user else 0))
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {outer[0]} 1")
        Path("/proc/self/gid_map").write_text(f"0 {outer[1]} 1")


def _become(spec: dict[str, Any], failure: int) -> NoReturn:
    try:
        _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _make_root(spec)
        _execute(spec)
    except OSError as error:
        os.write(failure, (f"{error.strerror}" + (f": {error.filename}" if error.filename else "")).encode())
    finally:
        os._exit(128)


def _make_root(spec: dict[str, Any]) -> None:
    root = Path(spec["directory"], "root")
    root.mkdir(exist_ok=True)
    mounts = [mount for mount in _mounts() if not _is_below(mount.point, spec["state_dir"])]
    _mount("none", "/", flags=MS_REC | MS_PRIVATE)
    layers = _Layers(spec["directory"], user_namespace=spec["user_namespace"])
    if spec["user_namespace"]:
        _mount("tmpfs", str(root), kind="tmpfs", options="mode=755")
        added = {os.path.realpath(path) for path in (*(bind["target"] for bind in spec["binds"]), *spec["links"])}
        _compose("/", str(root), {mount.point for mount in mounts} | added, layers)
    else:
        layers.overlay("/", str(root))
        for mount in mounts:
            if not mount.is_kernels and mount.point != "/":
                layers.overlay_or_bind(mount.point, f"{root}{mount.point}")
    _mount("/sys", f"{root}/sys", flags=MS_BIND | MS_REC)
    _make_devices(f"{root}/dev")
    Path(f"{root}{OLD_ROOT}").mkdir()
    _pivot(str(root))
    _finish_root(spec)


def _finish_root(spec: dict[str, Any]) -> None:
    """In the new root: its processes, its volumes, its own files, and nothing of the old root."""
    _mount_proc()
    for bind in spec["binds"]:
        _bind(OLD_ROOT + bind["source"], bind["target"], read_only=bind["read_only"])
    for path in _hidden_programs(spec["folders"], [os.path.realpath(bind["target"]) for bind in spec["binds"]]):
        _bind(OLD_ROOT + path, path, read_only=True)
    for path, target in spec["links"].items():
        Path(path).unlink(missing_ok=True)
        Path(path).symlink_to(target)
    _call("umount2", OLD_ROOT.encode(), MNT_DETACH)
    Path(OLD_ROOT).rmdir()
    if spec["read_only_root"]:
        volumes = [os.path.realpath(bind["target"]) for bind in spec["binds"]]
        for mount in _mounts():
            is_volume = any(_is_below(mount.point, volume) for volume in volumes)
            if not is_volume and (mount.kind == "overlay" or mount.point == "/"):
                _remount_read_only(mount.point)


def _hidden_programs(folders: list[str], volumes: list[str]) -> list[str]:
    """What stands in for the image, where a volume covers it: the project may lie in /tmp, where pods mount volumes."""
    programs = {*folders, str(Path(__file__).parents[3]), str(Path(sys.executable).parents[1]), sys.base_prefix}
    return sorted(path for path in programs if any(_is_below(path, volume) and path != volume for volume in volumes))


class _Mount(NamedTuple):
    point: str
    kind: str

    @property
    def is_kernels(self) -> bool:
        """Whether it shows the kernel's own data, or belongs to what every container gets afresh."""
        return self.kind in KERNEL_FILESYSTEMS or any(_is_below(self.point, place) for place in FRESH)


def _mounts() -> list[_Mount]:
    """What is mounted in this namespace, outer places first; only the topmost of a place."""
    kinds: dict[str, str] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        kinds[fields.split()[4].encode().decode("unicode_escape")] = rest.split()[0]
    return [_Mount(point, kinds[point]) for point in sorted(kinds)]


def _compose(place: str, target: str, apart: set[str], layers: _Layers) -> None:
    """`target` shows what `place` does. Directories above the paths in `apart` are made anew, files in it left out.

    In a user namespace an overlay may not cover another mount, and nothing may be added to a directory of root's.
    """
    for entry in os.scandir(place):
        copy = f"{target.rstrip('/')}/{entry.name}"
        if entry.is_symlink():
            Path(copy).symlink_to(Path(entry.path).readlink())
        elif entry.is_dir():
            Path(copy).mkdir()
            if entry.path in FRESH:
                continue
            if any(point != entry.path and _is_below(point, entry.path) for point in apart):
                _compose(entry.path, copy, apart, layers)
            else:
                layers.overlay_or_bind(entry.path, copy)
        elif entry.path not in apart:
            Path(copy).touch()
            layers.overlay_or_bind(entry.path, copy)


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


class _Layers:
    """Overlays of one container; what is written to each goes to its own part of the container's directory.

    Where that directory's file system cannot hold such a part (it is an overlay itself, as in a development
    container), what is written is kept in memory.
    """

    def __init__(self, directory: str, *, user_namespace: bool) -> None:
        self._directory, self._user_namespace = directory, user_namespace
        self._count = 0
        self._in_memory = False

    def overlay(self, lower: str, target: str) -> None:
        try:
            self._overlay(lower, target)
        except OSError as error:
            if error.errno != errno.EINVAL or self._in_memory:
                raise
            self._in_memory = True
            self._directory += "/memory"
            Path(self._directory).mkdir()
            _mount("tmpfs", self._directory, kind="tmpfs", options="mode=700")
            self._overlay(lower, target)

    def _overlay(self, lower: str, target: str) -> None:
        upper, work = (f"{self._directory}/{name}{self._count}" for name in ("upper", "work"))
        self._count += 1
        for directory in (upper, work):
            Path(directory).mkdir()
        options = f"lowerdir={_escape(lower)},upperdir={_escape(upper)},workdir={_escape(work)}"
        _mount("overlay", target, kind="overlay", options=options + (",userxattr" if self._user_namespace else ""))

    def overlay_or_bind(self, source: str, target: str) -> None:
        """What cannot be overlaid is seen read-only; what cannot even be seen is not needed either."""
        try:
            if not Path(source).is_dir():
                raise NotADirectoryError(source)
            self.overlay(source, target)
        except OSError:
            with contextlib.suppress(OSError):
                _mount(source, target, flags=MS_BIND | MS_REC)
                _remount_read_only(target)


def _escape(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def _make_devices(target: str) -> None:
    """A /dev of the container's own: the usual devices, terminals, and shared memory that nobody else sees."""
    _mount("tmpfs", target, kind="tmpfs", options="mode=755")
    for name in DEVICES:
        Path(target, name).touch()
        _mount(f"/dev/{name}", f"{target}/{name}", flags=MS_BIND)
    for name, options in (("pts", "newinstance,ptmxmode=0666,mode=620"), ("shm", "mode=1777")):
        Path(target, name).mkdir()
        _mount(name, f"{target}/{name}", kind="devpts" if name == "pts" else "tmpfs", options=options)
    for name, link in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        Path(target, name).symlink_to(f"/proc/self/fd{link}")
    Path(target, "ptmx").symlink_to("pts/ptmx")


def _pivot(root: str) -> None:
    machine = os.uname().machine
    if machine not in SYS_PIVOT_ROOT:
        raise OSError(0, f"pivot_root is not known for {machine}")
    if _libc.syscall(SYS_PIVOT_ROOT[machine], root.encode(), (root + OLD_ROOT).encode()) != 0:
        raise OSError(ctypes.get_errno(), f"pivot_root: {os.strerror(ctypes.get_errno())}")
    os.chdir("/")


def _mount_proc() -> None:
    """The process sees its own namespace's processes; where a container engine forbids that, the host's."""
    try:
        _mount("proc", "/proc", kind="proc")
    except OSError:
        _mount(OLD_ROOT + "/proc", "/proc", flags=MS_BIND | MS_REC)


def _bind(source: str, target: str, *, read_only: bool) -> None:
    place, origin = Path(target), Path(source)
    if origin.is_dir():
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    _mount(source, target, flags=MS_BIND | MS_REC)
    if read_only:
        _remount_read_only(target)


def _remount_read_only(target: str) -> None:
    """Flags that the mount already has must be repeated: without real root they may not be taken away."""
    kept = os.statvfs(target).f_flag & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME)
    _mount("none", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY | kept)


def _mount(source: str, target: str, *, kind: str = "", flags: int = 0, options: str = "") -> None:
    arguments = (text.encode() or None for text in (source, target, kind))
    if _libc.mount(*arguments, ctypes.c_ulong(flags), options.encode() or None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {kind or source} on {target}: {os.strerror(number)}")


def _execute(spec: dict[str, Any]) -> NoReturn:
    argv: list[str] = spec["argv"]
    name = spec["hostname"].encode()
    _call("sethostname", name, len(name))
    Path(spec["cwd"]).mkdir(parents=True, exist_ok=True) if not spec["read_only_root"] else None
    try:
        os.chdir(spec["cwd"])
    except OSError as error:
        raise OSError(error.errno, f'chdir to cwd ("{spec["cwd"]}"): {os.strerror(error.errno or 0)}') from error
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.setsid()
    try:
        os.execvpe(argv[0], argv, spec["env"])
    except FileNotFoundError as error:
        where = "no such file or directory" if "/" in argv[0] else "executable file not found in $PATH"
        raise OSError(0, f'exec: "{argv[0]}": {where}') from error
    except PermissionError as error:
        raise OSError(0, f'exec: "{argv[0]}": permission denied') from error


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))

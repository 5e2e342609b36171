"""Run one program in a process that has given up nearly all rights; a script, not a module.

`code_execution` starts it with the isolated interpreter (`python -I -S`), an empty environment and
an empty working folder. It uses only the standard library, since nothing else is available.

Standard input contains a line of JSON (the limits and a token) and then the program. Standard
output receives one line of JSON: the token and the outcome. A program that exits the process itself
does not know the token, and counts as failed.

The process gives up, in this order:

- the network and other resources shared between processes, by its own namespaces where the system
  allows them to unprivileged processes (`unshare`), and all capabilities;
- CPU time, memory, open files, core dumps, and writing files (resource limits);
- permanently, by a seccomp filter: sockets, new processes and threads, signals to other processes,
  tracing, writing, creating, renaming or deleting files, shared memory, io_uring, mounting.

Reading files remains possible, since imports need it; the only way to pass on what was read is the
line with the error.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import struct
import sys
import types
from typing import Any

_NEW_USER, _NEW_NETWORK, _NEW_IPC, _NEW_UTS = 0x10000000, 0x40000000, 0x08000000, 0x04000000
_SET_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER_MODE = 38, 22, 2
_NOT_PERMITTED = 1
_WRITES = 0x1 | 0x2 | 0x40 | 0x200 | 0x400000
"""flags of open that write: O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_TMPFILE"""

# Numbers of Linux's system calls, from asm/unistd_64.h (x86-64) and asm-generic/unistd.h (arm64).
_X86_64: dict[str, Any] = {
    "architecture": 0xC000003E,
    "opens": ((2, 1), (257, 2)),  # open, openat: (number, argument with the flags)
    "denied": (
        # sockets
        *(41, 42, 43, 49, 50, 53, 288),
        # processes, threads, programs
        *(56, 57, 58, 59, 322),
        # signals, tracing, others' limits and memory
        *(62, 129, 200, 234, 297, 101, 302, 310, 311),
        # writing to the file system: creat, rename, mkdir, link, unlink, chmod, chown, truncate,
        # times, mknod, extended attributes, locks across processes
        *(85, 82, 264, 316, 83, 258, 84, 86, 265, 87, 263, 88, 266, 90, 91, 268, 92, 93, 94, 260),
        *(76, 77, 285, 132, 235, 261, 280, 133, 259, 188, 189, 190, 197, 198, 199),
        # shared memory, queues, memory files
        *(29, 30, 64, 68, 240, 319),
        # namespaces, mounts, the kernel
        *(272, 308, 155, 161, 165, 166, 321, 298, 323, 248, 249, 250, 175, 313, 246, 169),
    ),
}
_ARM64: dict[str, Any] = {
    "architecture": 0xC00000B7,
    "opens": ((56, 2),),
    "denied": (
        *(198, 199, 200, 201, 202, 203, 242),
        *(220, 221, 281),
        *(129, 130, 131, 138, 240, 117, 261, 270, 271),
        *(38, 276, 34, 37, 35, 36, 52, 53, 54, 55, 45, 46, 47, 88, 33, 5, 6, 7, 14, 15, 16),
        *(194, 196, 190, 186, 180, 279),
        *(97, 268, 41, 51, 40, 39, 280, 241, 282, 217, 218, 219, 105, 273, 104, 142),
    ),
}
_BOTH = (
    # pidfd_send_signal, io_uring, open_tree, move_mount, fsopen, fsconfig, fsmount, fspick
    *(424, 425, 426, 427, 428, 429, 430, 431, 432, 433),
    # pidfd_open, clone3, openat2, pidfd_getfd, process_madvise, mount_setattr, memfd_secret,
    # process_mrelease, fchmodat2, setxattrat, removexattrat
    *(434, 435, 437, 438, 440, 442, 447, 448, 452, 463, 466),
)
_ARCHITECTURES = {"x86_64": _X86_64, "aarch64": _ARM64}


def filter_program(machine: str) -> bytes:
    """The seccomp filter for a machine, in the kernel's encoding (`struct sock_filter`).

    Raises:
        OSError: the machine's system calls are not listed here.
    """
    if machine not in _ARCHITECTURES:
        raise OSError(f"no filter for {machine}; known are {', '.join(_ARCHITECTURES)}")
    numbers = _ARCHITECTURES[machine]
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    steps: list[tuple[int, int, str, str]] = [  # code, value, target if true, target if false
        (load, 4, "", ""),  # offsetof(seccomp_data, arch)
        (equal, numbers["architecture"], "", "kill"),
        (load, 0, "", ""),  # the call's number
        (at_least, 0x40000000, "deny", ""),  # x86-64's calls with 32-bit pointers
        *((equal, number, "deny", "") for number in (*numbers["denied"], *_BOTH)),
    ]
    for number, argument in numbers["opens"]:
        steps += [
            (equal, number, "", "+3"),
            (load, 16 + 8 * argument, "", ""),
            (any_bit, _WRITES, "deny", ""),
            (give, 0x7FFF0000, "", ""),  # allow
        ]
    places = {"deny": len(steps) + 1, "kill": len(steps) + 2}
    steps += [
        (give, 0x7FFF0000, "", ""),
        (give, 0x00050000 | _NOT_PERMITTED, "", ""),  # an error, which Python raises
        (give, 0x80000000, "", ""),
    ]

    def jump(here: int, to: str) -> int:
        if not to:
            return 0
        return int(to) if to.startswith("+") else places[to] - here - 1

    return b"".join(
        struct.pack("=HBBI", code, jump(here, true), jump(here, false), value)
        for here, (code, value, true, false) in enumerate(steps)
    )


def give_up(limits: dict[str, int]) -> None:
    """Permanently give up all rights that a pure function does not need.

    Raises:
        OSError: the system does not allow this, so that no program may be run.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    # Whether this is allowed depends on the system; the filter below does not depend on it.
    libc.unshare(_NEW_USER | _NEW_NETWORK | _NEW_IPC | _NEW_UTS)
    for kind, value in (
        (resource.RLIMIT_CPU, limits["cpu_seconds"]),
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(kind, (value, value))
    # struct __user_cap_header_struct, two struct __user_cap_data_struct: no capability
    _must(libc.syscall(_CAPSET[platform.machine()], struct.pack("=Ii", 0x20080522, 0), bytes(24)))
    _must(libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    code = filter_program(platform.machine())
    kept = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(kept))
    _must(libc.prctl(_SET_SECCOMP, _FILTER_MODE, program, 0, 0))


_CAPSET = {"x86_64": 126, "aarch64": 91}


def _must(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def run(source: str) -> str:
    """Execute a program as a module; returns its error in one line, or an empty string."""
    module = types.ModuleType("program")
    sys.modules["program"] = module  # dataclasses look there
    try:
        exec(compile(source, "program.py", "exec"), module.__dict__)
    except BaseException as error:
        try:
            line = f"{type(error).__name__}: {error}"
        except BaseException:
            line = type(error).__name__
        return " ".join(line.split())[:500] or "error"
    return ""


def main() -> None:
    """Read the request, give up all rights, run the program, and report the outcome."""
    request = json.loads(sys.stdin.buffer.readline())
    source = sys.stdin.buffer.read().decode()
    report = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.close(nothing)
    token = request.pop("token")
    try:
        give_up(request)
    except Exception as refusal:
        os.write(report, json.dumps({"refused": str(refusal)}).encode())
        return
    error = run(source)
    os.write(report, json.dumps({"token": token, "error": error}).encode())
    os._exit(0)  # without waiting for threads or exit handlers of the program


if __name__ == "__main__":
    main()

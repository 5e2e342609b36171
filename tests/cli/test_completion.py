"""Tab completion in a real shell, with the script that `tfllm completion` prints."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tfllm.models.sizes.all_sizes import size_names
from tfllm.tasks.registry import TASKS

pytest.importorskip("argcomplete")

BASH = """
source <(tfllm completion bash)
while IFS= read -r COMP_LINE; do
    COMP_POINT=${#COMP_LINE} COMP_TYPE=9 COMPREPLY=()
    _python_argcomplete tfllm
    echo "${COMPREPLY[@]}"
done
"""
FISH = """
tfllm completion fish | source
while read line
    echo (complete -C $line | string replace -r '\\t.*' '')
end
"""
ZSH = """
autoload -Uz compinit; compinit -u -d $HOME/.zcompdump
source <(tfllm completion zsh)
print is ready
"""


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """With a `tfllm` in the PATH, which TensorFlow and NumPy would fail."""
    blocked = tmp_path / "blocked"
    for name in ("tensorflow", "keras", "numpy"):
        (blocked / name).mkdir(parents=True)
        (blocked / name / "__init__.py").write_text(f"raise SystemExit('{name} is imported')")
    command = tmp_path / "bin/tfllm"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tfllm.cli "$@"\n')
    command.chmod(0o755)
    root = str(Path(__file__).parents[2])
    paths = [str(blocked), root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "HOME": str(tmp_path),
        "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(paths),
    }


def completed(shell: str, script: str, lines: list[str], environment) -> list[list[str]]:
    """What each line becomes at Tab, as words."""
    done = subprocess.run(
        [shell, "-c", script],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    found = [line.split() for line in done.stdout.splitlines()]
    assert len(found) == len(lines)
    return found


EXPECTED = {
    "tfllm tr": ["train"],
    "tfllm train --learn": ["--learning-rate"],
    "tfllm train --task classif": ["classification"],
    "tfllm train --data d --out r learn": ["learning_rate="],
    "tfllm train steps=3 --data d seed=1 model.num_l": ["model.num_layers="],
    "tfllm prepare texts --out d --set vocab": ["vocab_size="],
    "tfllm train --size bert-t": ["bert-tiny"],
    "tfllm train --pre": ["--precision"],  # not --preset, the old name of --size
    "tfllm generate run hi top_": ["top_k=", "top_p="],
    "tfllm launch --workers 2 -- train --data d --out r bat": ["batch_size="],
}


def test_bash_completes_commands_options_settings_tasks_and_sizes(environment):
    lines = [*EXPECTED, "tfllm ", "tfllm train --task ", "tfllm train --size "]
    lines += ["tfllm train precision=", "tfllm train --precision=b", "tfllm prepare d --"]
    found = completed("bash", BASH, lines, environment)
    assert dict(zip(EXPECTED, found, strict=False)) == EXPECTED
    commands, tasks, sizes, values, value, options = found[len(EXPECTED) :]
    assert {"prepare", "train", "query", "completion"} <= {*commands}
    assert {*tasks} == {*TASKS}
    assert {*sizes} == {*size_names()} >= {"llama-4m", "bert-base", "t5-small"}
    assert values == ["auto", "float32", "bfloat16", "float16"] and value == ["bfloat16"]
    assert {"--vocab-size", "--columns", "--help-all"} <= {*options}


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
def test_fish_completes_the_same(environment):
    assert completed("fish", FISH, [*EXPECTED], environment) == [*EXPECTED.values()]


@pytest.mark.alone
@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_zsh_completes_what_is_typed(environment):
    Path(environment["HOME"], ".zshrc").write_text(ZSH)
    terminal, other = pty.openpty()
    shell = subprocess.Popen(
        ["zsh", "-i"], stdin=other, stdout=other, stderr=other, env=environment
    )
    os.close(other)
    try:
        read_until(terminal, "is ready")
        for line, rest in (("tfllm train learn", "ing_rate="), ("tfllm tr", "ain")):
            os.write(terminal, f"{line}\t".encode())
            read_until(terminal, rest)
            os.write(terminal, b"\x15")  # clears the line
    finally:
        shell.kill()
        shell.wait()
        os.close(terminal)


def read_until(terminal: int, wanted: str) -> None:
    """Read what a terminal shows until it holds `wanted`."""
    shown, deadline = "", time.monotonic() + 60
    while wanted not in shown:
        assert time.monotonic() < deadline, shown
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 4096).decode(errors="replace")


@pytest.mark.alone
def test_a_tab_takes_less_than_three_tenths_of_a_second(environment):
    import resource

    line = "tfllm train --task "
    asked = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE": "1"}
    asked["_ARGCOMPLETE_STDOUT_FILENAME"] = os.devnull
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run(["tfllm"], env={**environment, **asked}, check=True, timeout=120)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 0.3


def test_another_shell_is_refused(environment):
    done = subprocess.run(["tfllm", "completion", "csh"], capture_output=True, env=environment)
    assert done.returncode == 2 and b"invalid choice: 'csh'" in done.stderr

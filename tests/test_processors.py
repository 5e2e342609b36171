"""The command that runs the numeric tests on imitated processors: its table and exit status."""

import re
import subprocess

import pytest

from tests import processors

VERBOSE = "onednn_verbose,v1,info,cpu,isa:Intel AVX2"


@pytest.fixture
def processes(monkeypatch):
    """No process is started: commands with their environments, and the processors that fail."""

    class Processes:
        def __init__(self):
            self.commands, self.failing, self.without_onednn = [], set(), {"no-oneDNN"}

        def run(self, command, env, **options):
            names = [n for n in processors.PROCESSORS if set(self.settings(n)) == self.set_in(env)]
            (name,) = names
            if command[1] == "-c":
                isa = "" if name in self.without_onednn else VERBOSE
                digest = "0ff" if name == "AVX2" else "abc"
                return subprocess.CompletedProcess(command, 0, f"{isa}\ndigest {digest}\n", "")
            self.commands.append((name, command))
            failed = name in self.failing
            last = "1 failed, 6 passed, 2 skipped in 3.0s" if failed else "7 passed in 2.0s"
            return subprocess.CompletedProcess(command, int(failed), f"...\n{last}\n", "a warning")

        def settings(self, name):
            return processors.PROCESSORS[name].items()

        def set_in(self, env):
            keys = ("ONEDNN_MAX_CPU_ISA", "TF_ENABLE_ONEDNN_OPTS")
            return {(key, env[key]) for key in keys if key in env}

    made = Processes()
    monkeypatch.setattr(processors.subprocess, "run", made.run)
    return made


def rows_of(text):
    """The final table's cells, without the time."""
    lines = text[text.index("| processor |") :].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")][:-1] for line in lines]


def test_each_processor_has_a_row_and_all_that_pass_are_status_0(processes, capsys):
    assert processors.main([]) == 0
    assert rows_of(capsys.readouterr().out) == [
        ["AVX2", "Intel AVX2", "differ", "7 passed"],
        ["AVX512_CORE", "Intel AVX2", "the same", "7 passed"],
        ["AVX512_CORE_VNNI", "Intel AVX2", "the same", "7 passed"],
        ["this", "Intel AVX2", "the same", "7 passed"],
        ["no-oneDNN", "not used", "the same", "7 passed"],
    ]
    assert [name for name, _ in processes.commands] == list(processors.PROCESSORS)


@pytest.mark.parametrize("failing", ["AVX2", "no-oneDNN"])
def test_one_that_fails_is_status_1_wherever_it_comes_and_the_others_run(
    failing, processes, capsys
):
    processes.failing = {failing}
    assert processors.main(["AVX2", "this", "no-oneDNN"]) == 1
    shown = capsys.readouterr().out
    counts = {row[0]: row[3] for row in rows_of(shown)}
    expected = dict.fromkeys(("AVX2", "this", "no-oneDNN"), "7 passed")
    assert counts == {**expected, failing: "1 failed, 6 passed, 2 skipped"}
    assert "in 3.0s" in shown and "a warning" in shown  # what pytest said


def test_what_is_behind_the_dashes_goes_to_pytest(processes, capsys):
    assert processors.main(["AVX2", "this", "--", "tests/layers", "-k", "attention"]) == 0
    (_, first), (_, second) = processes.commands
    assert first[-3:] == second[-3:] == ["tests/layers", "-k", "attention"]
    marks = [command[command.index("-m", 3) + 1] for command in (first, second)]
    assert marks[0] == marks[1] + " and not half_precision"
    assert marks[1] == "numeric and not slow and not alone"


def test_a_processor_alone_has_one_line_and_no_table(processes, capsys):
    assert processors.main(["AVX512_CORE"]) == 0
    shown = capsys.readouterr().out
    assert re.fullmatch(r"AVX512_CORE \| Intel AVX2 \| the same \| 7 passed \| \d+ s\n", shown)


def test_an_unknown_processor_is_status_2_before_anything_runs(processes, capsys):
    assert processors.main(["AVX2", "SSE2"]) == 2
    assert "processors are AVX2, " in (shown := capsys.readouterr().out)
    assert shown.endswith("received SSE2\n") and not processes.commands


def test_a_processor_has_its_own_settings_and_none_of_the_callers(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    for name, expected in processors.PROCESSORS.items():
        given = processors.environment(name)
        kept = {k: given[k] for k in ("ONEDNN_MAX_CPU_ISA", "TF_ENABLE_ONEDNN_OPTS") if k in given}
        assert kept == expected
        assert "PATH" in given

"""One run per folder, one process per run."""

import pytest

from tfllm.training.run_folder import RunFolder


def test_a_second_process_is_refused(tmp_path):
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    first.open(resume=False)
    first.write({})
    for resume in (False, True):
        with pytest.raises(
            RuntimeError, match=r"another process \(pid \d+ on \S+\) is training in"
        ):
            second.open(resume=resume)
    first.close()
    second.open(resume=True)
    second.close()


def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="contains other files"):
        RunFolder(tmp_path).open(resume=False)
    with pytest.raises(FileNotFoundError, match="no run to resume"):
        RunFolder(tmp_path).open(resume=True)
    with pytest.raises(NotADirectoryError, match="received the file"):
        RunFolder(tmp_path / "thesis.txt").open(resume=False)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_logs_of_workers_may_be_there_before_the_run_and_stay(tmp_path):
    log = tmp_path / "run/logs/worker-0.log"
    log.parent.mkdir(parents=True)
    log.write_text("started")
    folder = RunFolder(tmp_path / "run")
    folder.open(resume=False)
    folder.close()  # it failed before it began
    assert log.read_text() == "started"
    folder.open(resume=False)
    folder.close()
    (tmp_path / "run/thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="contains other files"):
        folder.open(resume=False)


def test_a_run_is_found_again_and_left_as_it_was(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert folder.open() is False
    folder.write({"a": 1})
    folder.close()
    again = RunFolder(tmp_path / "run")
    assert again.open() is True
    again.close()
    assert folder.read() == {"a": 1}


def test_a_run_that_failed_before_it_began_leaves_nothing(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.open(resume=False)
    folder.close()
    assert not folder.path.exists()


def test_lines_about_steps_to_be_done_again_are_taken_out(tmp_path):
    folder = RunFolder(tmp_path)
    folder.trim_metrics(0)  # no log yet
    folder.metrics.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 1, "lo')
    folder.trim_metrics(2)
    assert folder.metrics.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_damaged_run_json_is_named(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        RunFolder(tmp_path).read()

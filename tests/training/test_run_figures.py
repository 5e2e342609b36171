"""Each figure of a run is the same in metrics.jsonl, on the terminal and in the report."""

import json
import re

import pytest

from tests.rounding import in_double
from tests.training.conftest import SETTINGS
from tfllm.charts.number_format import percentage, quantity
from tfllm.charts.run_figures import figures_of
from tfllm.cli import main
from tfllm.training import report
from tfllm.training.throughput import Throughput

SIZES = ["num_layers=1", "num_heads=2", "embedding_dim=16", "feed_forward_dim=32"]


def on_terminal(text):
    """The rows of the table at the end."""
    return dict(
        re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in text.splitlines() if "  " in line
    )


def in_report(page):
    """The rows of the comparison."""
    rows = re.findall(r'<th scope="row">(.*?)</th>\s*<td>(.*?)</td>', page.read_text(), re.S)
    return dict(rows)


@pytest.fixture(scope="module")
def command(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures") / "run"
    settings = {**SETTINGS, "steps": 13, "steps_per_execution": 2, "validation_batches": 0}
    given = [f"{name}={value}" for name, value in settings.items()] + SIZES
    return ["train", "--data", str(data.folder), "--out", str(folder), *given]


def test_terminal_log_and_report_of_a_run_agree(command, capsys, tmp_path):
    assert main(command) == 0
    shown = on_terminal(capsys.readouterr().out)
    folder = command[command.index("--out") + 1]
    page = in_report(report(folder, tmp_path / "out"))
    with open(f"{folder}/metrics.jsonl", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    for name in ("tokens/s", "time", "peak memory", "best validation loss"):
        assert shown[name] == page[name], name
    assert shown["best validation perplexity"] == page["best validation perplexity"]
    assert shown["FLOPs utilisation"].split(" of ")[0] == page["FLOPs utilisation"]

    # From metrics.jsonl by hand.
    end = lines[-1]
    parts = ("tracing", "input", "compute", "checkpoint", "validation")
    seconds = [end[f"{part}_seconds"] for part in parts]
    shares = dict(part.rsplit(" ", 2)[:2] for part in shown["of which"].split(", "))
    for name, part in zip(
        ("tracing", "input", "compute", "checkpoints", "validation"), seconds, strict=True
    ):
        share = percentage(part / end["seconds"])
        assert page[f"of which: {name}"] == share and f"{shares[name]} %" == share
    told = [float(share) for share in shares.values()]
    # Each is rounded to three figures, half a tenth at most.
    assert sum(told) == pytest.approx(100, rel=0, abs=0.05 * len(told))
    assert sum(seconds) <= end["seconds"]
    assert end["validation_seconds"] > 0  # the last step's validation among them
    worked = end["input_seconds"] + end["compute_seconds"]
    assert shown["tokens/s"] == quantity(end["timed_tokens"] / worked)
    # Of 13 steps the first two, one call, and the last one, which runs alone, traced.
    assert end["timed_tokens"] == 10 * SETTINGS["batch_size"] * SETTINGS["sequence_length"]
    assert 0 < end["peak_seconds"] / worked <= 1
    best = min(line["validation_loss"] for line in lines if "validation_loss" in line)
    assert shown["best validation loss"] == f"{best:.4f}"

    # What run.json and Python say of it.
    with open(f"{folder}/run.json", encoding="utf-8") as file:
        result = json.load(file)["result"]
    assert result["tokens_per_second"] == in_double(figures_of(folder).tokens_per_second)
    assert result["flops_utilization"] == in_double(figures_of(folder).flops_utilization)


def test_the_utilisation_is_at_most_the_peak_that_was_seen():
    throughput = Throughput(100, replicas=1, flops_per_token=10.0, peak=500.0)
    line = throughput.count_step(1, 1.0, 0.25)  # 1,000 FLOP/s: the machine was busy before
    assert line["tokens_per_second"] == 100 and line["flops_utilization"] == 1
    throughput.begin_stretch()
    assert throughput.peak == 1000
    throughput.count_step(1, 3.0, 0.0)
    line = throughput.count_step(1, 1.0, 0.0)  # 200 tokens in 4 s since the last line
    assert line["tokens_per_second"] == 50 and line["flops_utilization"] == 0.5
    totals = throughput.totals()
    assert throughput.tokens_per_second == in_double(300 / 5)
    assert throughput.flops_utilization == in_double(0.6)
    assert totals["peak_seconds"] / 5 == in_double(0.6)
    assert (totals["input_seconds"], totals["compute_seconds"]) == (0.25, 4.75)


def test_figures_go_on_over_processes(tmp_path):
    def line(step, **sums):
        return {"step": step, "tokens": 64 * step, **sums}

    first = {"seconds": 10.0, "tracing_seconds": 4.0, "input_seconds": 1.0, "compute_seconds": 3.0}
    second = {"seconds": 6.0, "tracing_seconds": 2.0, "input_seconds": 0.0, "compute_seconds": 4.0}
    lines = [
        line(1, loss=3.0, seconds=4.0, tracing_seconds=4.0, input_seconds=0.0, compute_seconds=0.0,
             timed_tokens=0.0, peak_seconds=0.0),
        line(5, validation_loss=2.0),
        line(5, **first, timed_tokens=256.0, peak_seconds=2.0, memory_bytes=1e9),
        line(9, loss=2.5, **second, timed_tokens=320.0, peak_seconds=1.0, memory_bytes=2e9),
        line(9, validation_loss=2.2),
        line(9, **{**second, "seconds": 8.0}, validation_seconds=1.5, timed_tokens=320.0,
             peak_seconds=1.0, memory_bytes=2e9),
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    found = figures_of(tmp_path)
    assert found.seconds == 18 and sum(found.time_parts.values()) == in_double(18)
    assert found.time_parts["validation"] == 1.5 and found.time_parts["tracing"] == 6
    assert found.tokens_per_second == in_double((256 + 320) / 8)
    assert found.flops_utilization == in_double(3 / 8)
    assert found.validation_loss == 2.0 and found.peak_memory == 2e9

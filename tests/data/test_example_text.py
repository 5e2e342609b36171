import gzip
import hashlib
import json
import re
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "examples" / "data"


def test_the_example_text_is_what_its_readme_says():
    packed = (FOLDER / "state_of_the_union.jsonl.gz").read_bytes()
    content = gzip.decompress(packed)
    speeches = [json.loads(line) for line in content.splitlines()]
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for data in (content, packed):
        assert f"{len(data):,} bytes, SHA-256 `{hashlib.sha256(data).hexdigest()}`" in readme
    assert f"{sum(len(s['text'].encode()) for s in speeches):,} bytes of UTF-8" in readme
    assert f"{len(speeches)}, by {len({s['president'] for s in speeches})} presidents" in readme
    assert [s["year"] for s in speeches] == sorted(s["year"] for s in speeches)


def test_the_example_text_is_clean():
    with gzip.open(FOLDER / "state_of_the_union.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    # Letters of English and of a few names, its punctuation, and nothing a broken encoding leaves.
    for text in texts:
        assert re.fullmatch("[ -~’‘“”—–‑áïó]+", text), set(re.sub("[ -~]", "", text))
        assert not re.search(r"[@\\_]|  |\[(?:Applause|Laughter)\]|[a-z][?][a-z]", text)

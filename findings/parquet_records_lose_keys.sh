#!/usr/bin/env bash
# A list of records, written to Parquet with pyarrow and read again, is another list of records.
#
# One would expect Table.from_pylist(records) to keep every key of every record, or to refuse records
# whose keys differ; data sets of conversations have such records all the time.
#
# What happens, with pyarrow 26.0.1 and Python 3.11:
# - A key at the top of a record that the FIRST record does not have is dropped from all others,
#   without an error or a warning ("label": false of a bad answer, "tools", "system").
# - One level down the opposite happens: the fields of all structs are united, so that the arguments
#   of every call of a tool get the parameters of all other tools, as null.
# - Which of both a key meets depends on the order of the records alone: sorted otherwise, the same
#   records keep it.
# Both hold for the table in memory, before anything is written, and Parquet keeps them so.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1

"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import pyarrow
import pyarrow.parquet

print("pyarrow", pyarrow.__version__)


def call(name, **arguments):
    return {"name": name, "arguments": arguments}


good = {"prompt": "Is it warm?", "calls": [call("weather", town="Bern")]}
bad = {"prompt": "What is 2 + 2?", "calls": [call("add", a=2, b=2)], "label": False}


def through_parquet(records):
    path = sys.argv[1] + "/records.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    return pyarrow.parquet.read_table(path).to_pylist()


print("written: ", [good, bad])
first_good = through_parquet([good, bad])
print("read:    ", first_good)
first_bad = through_parquet([bad, good])
print("reversed:", first_bad)

ok = True


def expect(what, holds):
    global ok
    print(("as described: " if holds else "CHANGED: ") + what)
    ok = ok and holds


expect("the label of the second record is gone", "label" not in first_good[1])
expect("in the other order it is kept", first_bad[0].get("label") is False)
expect(
    "the call of weather has the parameters of add",
    first_good[0]["calls"][0]["arguments"] == {"town": "Bern", "a": None, "b": None},
)
expect(
    "and the call of add has that of weather",
    first_good[1]["calls"][0]["arguments"] == {"town": None, "a": 2, "b": 2},
)
sys.exit(not ok)
PYTHON

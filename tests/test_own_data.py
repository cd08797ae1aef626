"""A user's own files: every form, every common layout, which split a row belongs to, what is
refused.
"""

import decimal
import gzip
import http.server
import json
import pathlib
import threading
import zipfile

import pytest
from conftest import one_line_error, process, run, run_well

import prepare_data
from lib import cells, columns, hub_data, public_sources, readers, splits
from lib.errors import InputError

NAMED = columns.Named()


def sums(count: int, start: int = 0) -> list[dict]:
  """Rows of plain questions and answers that share no eight words."""
  places = ("mill", "lake", "barn", "pier", "wood")
  rows = []
  for i in range(start, start + count):
    question = f"{i} geese and {i * 7} ducks near the {places[i % 5]} {i * 3}: how many birds?"
    rows.append({"question": question, "answer": str(i * 8)})
  return rows


def as_csv(rows: list[dict], delimiter: str = ",") -> str:
  lines = [delimiter.join(rows[0])]
  lines += [delimiter.join(str(cell) for cell in row.values()) for row in rows]
  return "\n".join(lines) + "\n"


def as_lines(rows: list[dict]) -> str:
  return "".join(json.dumps(row) + "\n" for row in rows)


def read(path, named=NAMED) -> list[dict]:
  """The rows of a file, as --pool would read them."""
  rows = []
  for file in readers.named_files(pathlib.Path(path)):
    records = list(readers.read_file(file, "rows of questions and answers"))
    rows += columns.to_unified(records, readers.short_name(file), named)
  return rows


def rows_of(out, split: str) -> list[dict]:
  return [json.loads(line) for line in (out / f"{split}.jsonl").read_text().splitlines()]


# Which split.


@pytest.mark.parametrize(
  "record, key, path, split",
  [
    ({}, "", "train.jsonl", "train"),
    ({}, "", "latest_train.jsonl", "train"),  # "la-test" is no test
    ({}, "", "gsm8k_latest.jsonl", None),
    ({}, "", "ARC-Easy-Train.csv", "train"),
    ({}, "", "ARC-Easy-Dev.csv", "dev"),
    ({}, "", "evaluator/validation-00000-of-00001.parquet", "val"),
    ({}, "", "testament.json", None),
    ({}, "", "main_test.csv", "test"),
    ({}, "", "archive.zip/test/0000.parquet", "test"),  # the folder, where the name says nothing
    ({}, "", "test/train.csv", "train"),  # the name, before the folder
    ({}, "", "train_test.csv", "test"),  # both: never trains
    ({}, "test", "train.json", "test"),  # the key, before the name
    ({"split": "train"}, "test", "test.json", "train"),  # the column, before all
    ({"split": "fold 3"}, "", "test.json", "test"),  # a column that names none
    ({"Split": "Validation"}, "", "train.json", "val"),
    ("no row", "", "test.json", "test"),
  ],
)
def test_one_rule_for_the_split(record, key, path, split):
  assert splits.split_of(record, key, path) == split


def gsm8k(count: int, start: int = 0) -> list[dict]:
  return [row | {"answer": f"so it is\n#### {row['answer']}"} for row in sums(count, start)]


def zip_of(path, **members):
  with zipfile.ZipFile(path, "w") as archive:
    for name, rows in members.items():
      archive.writestr(f"{name}.jsonl", as_lines(rows))


def split_counts(rows: list[dict]) -> dict:
  counts = {}
  for row in rows:
    split = row["metadata"]["split"]
    counts[split] = counts.get(split, 0) + 1
  return counts


def test_a_json_of_splits_reads_each_under_its_name(tmp_path):
  content = {"test": gsm8k(3), "version": 1, "train": gsm8k(5, start=10)}
  (tmp_path / "gsm8k.json").write_text(json.dumps(content))
  rows = public_sources.read_source("gsm8k", str(tmp_path), 100, {})
  assert split_counts(rows) == {"train": 5, "test": 3}
  assert {row["answer"] for row in rows if row["metadata"]["split"] == "test"} == {"0", "8", "16"}


def test_a_split_column_is_obeyed(tmp_path):
  rows = [row | {"split": "test" if i % 2 else "train"} for i, row in enumerate(gsm8k(8))]
  (tmp_path / "gsm8k.jsonl").write_text(as_lines(rows))
  rows = public_sources.read_source("gsm8k", str(tmp_path), 100, {})
  assert split_counts(rows) == {"train": 4, "test": 4}


@pytest.mark.parametrize("limit, counts", [(6, {"train": 6}), (10, {"train": 8, "test": 2})])
def test_the_test_member_of_a_zip_leaves_room_for_training_rows(limit, counts, tmp_path):
  zip_of(tmp_path / "gsm8k.zip", main_test=gsm8k(8), main_train=gsm8k(8, start=20))
  assert split_counts(public_sources.read_source("gsm8k", str(tmp_path), limit, {})) == counts


def test_a_split_column_leaves_room_for_training_rows(tmp_path):
  rows = [row | {"split": "test"} for row in gsm8k(8)]
  rows += [row | {"split": "train"} for row in gsm8k(8, start=20)]
  (tmp_path / "gsm8k.jsonl").write_text(as_lines(rows))
  assert split_counts(public_sources.read_source("gsm8k", str(tmp_path), 6, {})) == {"train": 6}


def test_files_of_one_name_in_two_folders_are_two_files(tmp_path):
  for i, part in enumerate(("train", "test")):
    (tmp_path / "gsm8k" / part).mkdir(parents=True)
    (tmp_path / "gsm8k" / part / "0000.jsonl").write_text(as_lines(gsm8k(4, start=9 * i)))
  rows = public_sources.read_source("gsm8k", str(tmp_path), 100, {})
  assert split_counts(rows) == {"train": 4, "test": 4}


# Forms of files.


FORMS = {
  "my.csv": lambda rows: as_csv(rows).encode(),
  "my.CSV": lambda rows: b"\xef\xbb\xbf" + as_csv(rows).encode(),
  "europe.csv": lambda rows: as_csv(rows, ";").encode(),
  "bars.csv": lambda rows: as_csv(rows, "|").encode(),
  "excel.csv": lambda rows: b"sep=;\r\n" + as_csv(rows, ";").encode(),
  "tabs.txt": lambda rows: as_csv(rows, "\t").encode(),
  "no_suffix": lambda rows: as_csv(rows).encode(),
  "row_numbers.csv": lambda rows: ("," + as_csv(rows).replace("\n", "\n1,", len(rows))).encode(),
  "trailing.csv": lambda rows: as_csv(rows).replace("\n", ",,\n").encode(),
  "my.tsv": lambda rows: as_csv(rows, "\t").encode(),
  "my.jsonl": lambda rows: as_lines(rows).encode(),
  "my.JSONL": lambda rows: as_lines(rows).encode(),
  "my.jsonl.gz": lambda rows: gzip.compress(as_lines(rows).encode()),
  "my.csv.gz": lambda rows: gzip.compress(as_csv(rows).encode()),
  "my.json.gz": lambda rows: gzip.compress(json.dumps(rows).encode()),
  "list.json": lambda rows: json.dumps(rows, indent=1).encode(),
  "list.jsonl": lambda rows: json.dumps(rows).encode(),
  "nested.json": lambda rows: json.dumps({"data": {"train": rows}}).encode(),
  "lines.json": lambda rows: as_lines(rows).encode(),
  "data.json": lambda rows: json.dumps({"version": 1, "data": rows}).encode(),
  "by_id.json": lambda rows: json.dumps({f"q{i}": row for i, row in enumerate(rows)}).encode(),
  "columns.json": lambda rows: json.dumps(
    {name: [row[name] for row in rows] for name in rows[0]}
  ).encode(),
  "pandas.json": lambda rows: json.dumps(
    {name: {str(i): row[name] for i, row in enumerate(rows)} for name in rows[0]}
  ).encode(),
}


@pytest.mark.parametrize("name", list(FORMS))
def test_every_form_of_a_users_file(name, tmp_path):
  (tmp_path / name).write_bytes(FORMS[name](sums(6)))
  rows = read(tmp_path / name)
  assert [(row["question"], row["answer"]) for row in rows] == [
    (row["question"], row["answer"]) for row in sums(6)
  ]
  assert {row["domain"] for row in rows} == {"math"}


def test_parquet_with_null_cells(tmp_path):
  import pyarrow.parquet

  rows = [row | {"answer": decimal.Decimal(row["answer"])} for row in sums(4)]
  rows.append({"question": "What is missing?", "answer": None})
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "my.parquet")
  assert len(read(tmp_path / "my.parquet")) == 4
  rows = [*gsm8k(4), {"question": "What is missing?", "answer": None}]
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "gsm8k.parquet")
  assert len(public_sources.read_source("gsm8k", str(tmp_path), 100, {})) == 4


# Layouts of rows.

TURNS = [{"role": "user", "content": "Is ice cold?"}, {"role": "assistant", "content": "yes"}]
SHARE_GPT = [{"from": "human", "value": "Is ice cold?"}, {"from": "gpt", "value": "yes"}]


@pytest.mark.parametrize(
  "row, question, answer, reasoning",
  [
    ({"question": "2+3?", "answer": "5"}, "2+3?", "5", None),
    ({"Problem": "2+3?", "Answer": 5}, "2+3?", "5", None),
    ({"question": "2+3?", "answer": 5.0}, "2+3?", "5", None),
    ({"question": "2+3?", "answer": "2+3=5\n#### 5"}, "2+3?", "5", "2+3=5"),
    ({"problem": "2+3?", "solution": r"So \boxed{5}."}, "2+3?", "5", r"So \boxed{5}."),
    ({"problem": "2+3?", "solution": "2+3=5", "answer": "5"}, "2+3?", "5", "2+3=5"),
    ({"prompt": "2+3?", "completion": "<think>2+3=5</think>5"}, "2+3?", "5", "2+3=5"),
    ({"instruction": "Add.", "input": "2 3", "output": "5"}, "Add.\n\n2 3", "5", None),
    (
      {"Body": "Ann has 2 and 3.", "Question": "Sum?", "Answer": 5.0},
      "Ann has 2 and 3.\n\nSum?",
      "5",
      None,
    ),
    ({"context": "2+3?", "question": "What is 2+3?", "answer": "5"}, "What is 2+3?", "5", None),
    ({"messages": TURNS}, "Is ice cold?", "yes", None),
    ({"messages": [{"role": "system", "content": "Be brief."}, *TURNS]}, None, "yes", None),
    ({"messages": str(TURNS)}, "Is ice cold?", "yes", None),  # as pandas writes it to a CSV
    ({"conversations": SHARE_GPT}, "Is ice cold?", "yes", None),
    ({"prompt": TURNS[:1], "completion": TURNS[1:]}, "Is ice cold?", "yes", None),
    ({"prompt": TURNS[:1], "solution": "yes"}, "Is ice cold?", "yes", None),
    (
      {"prompt": TURNS[:1], "reward_model": {"style": "rule", "ground_truth": "yes"}},
      "Is ice cold?",
      "yes",
      None,
    ),
    (TURNS, "Is ice cold?", "yes", None),  # a list of chats
    ({"question": "2+3?", "answers": ["5"]}, "2+3?", "5", None),
    ({"question": "2+3?", "answers": {"text": ["5", "5"]}}, "2+3?", "5", None),  # SQuAD
    ({"domain": "", "prompt": "2+3?", "answer": "5"}, "2+3?", "5", None),
    ({"question": "a+b?", "A": "2", "B": "3", "answer": "5"}, "a+b?", "5", None),
    *[
      ({"question": "Hot?"} | options, "Hot?\nA) fire\nB) snow", "A", None)
      for options in (
        {"choices": ["fire", "snow"], "answer": 0},
        {"options": ["fire", "snow"], "answer": "A"},
        {"choices": {"text": ["fire", "snow"], "label": ["1", "2"]}, "answerKey": "1"},
        {"choices": [{"label": "1", "text": "fire"}, {"label": "2", "text": "snow"}], "gold": "1"},
        {"A": "fire", "B": "snow", "answer": "A"},
        {"opa": "fire", "opb": "snow", "answer": "fire"},
      )
    ],
  ],
)
def test_common_layouts(row, question, answer, reasoning):
  record = readers.Record("here:1", None, row)
  found = columns.to_unified([record], "my", NAMED)[0]
  assert question is None or found["question"] == question
  assert (found["answer"], found["reasoning"]) == (answer, reasoning)


def test_named_columns():
  named = columns.Named("logic", "ask", "say", "why")
  row = {"ask": "Is ice cold?", "say": "yes", "why": "It is frozen.", "question": "no"}
  found = columns.to_unified([readers.Record("here:1", None, row)], "my", named)[0]
  assert [found[name] for name in ("domain", "question", "answer", "reasoning")] == [
    "logic",
    "Is ice cold?",
    "yes",
    "It is frozen.",
  ]


def test_several_turns_are_left_out(capsys):
  records = [readers.Record("here:1", None, {"messages": TURNS + TURNS})]
  records.append(readers.Record("here:2", None, {"messages": TURNS}))
  assert len(columns.to_unified(records, "my", NAMED)) == 1
  assert "1 left out" in capsys.readouterr().out


@pytest.mark.parametrize(
  "answers, domain",
  [
    (["1", "2.5", "$3"], "math"),
    (["yes", "No", "true"], "logic"),
    (["Paris", "the Nile", "4"], "science"),
  ],
)
def test_the_domain_is_guessed_from_the_answers(answers, domain):
  records = []
  for i, answer in enumerate(answers):
    records.append(readers.Record("here", None, {"question": f"What is {i}?", "answer": answer}))
  assert {row["domain"] for row in columns.to_unified(records, "my", NAMED)} == {domain}


@pytest.mark.parametrize(
  "name, content, message",
  [
    ("p.csv", b"question,answer,answer\na,4,9\n", r"names the column 'answer' twice"),
    ("p.csv", b"question,answer\nWhat, then?,4\n", r"p\.csv:2 has 3 cells, its header 2"),
    ("p.csv", b"frage,antwort\na,4\n", r"no column with the question: found frage, antwort"),
    ("p.csv", b"question,antwort\na,4\n", r"column with the answer: .*--answer_field"),
    ("p.csv", b'question,answer\na,4\n"b,5\nc,6\n', r"p\.csv:2: .*close the quotes"),
    ("p.csv", b"question,Answer,answer\na,4,9\n", r"names the column 'answer' twice"),
    ("p.csv", "question,answer\n".encode("utf-16-le"), "holds NUL bytes, as UTF-16"),
    ("p.csv", b"PK\x03\x04", "is an Excel workbook or a zip, by its first bytes"),
    ("p.jsonl", b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n', "is a preference pair"),
    ("p.jsonl", b'{"prompt": "a", "completion": "b", "label": true}\n', "is a preference pair"),
    ("p.jsonl", b'{"question": ["a"], "answer": "b"}\n', "the question in 'question' is"),
    ("p.csv", b"question,choices,answer\na,x|y,x\n", r"the choices are 'x\|y'; expected a list"),
    ("p.jsonl", b'{"question": "a", "answer": NaN}\n', "NaN is no JSON value"),
    ("p.json", b'[{"question": "a", "answer": NaN}]', "NaN is no JSON value"),
    ("p.json", b'[{"question": "\\ud83d", "answer": "1"}]', r"p\.json:1 holds half of a surrogate"),
    ("p.jsonl", b'{"question": "a", "answer": [1, 2]}\n', r'"answer" is missing or empty'),
    ("p.jsonl", as_lines([{"question": "a", "answer": "b " * 99}]).encode(), "pass --domain="),
    ("p.xlsx", b"PK", "is of a form that is not read"),
    ("p.zip", b"PK", "is no readable zip"),
    ("p.jsonl.gz", b"no gzip", "BadGzipFile"),
  ],
)
def test_what_cannot_be_read_is_named_in_one_line(name, content, message, tmp_path):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(InputError, match=message) as caught:
    read(tmp_path / name)
  assert "\n" not in str(caught.value)


# Public sets, in their other layouts.

ARC_ROWS = [
  {
    "question": "Which is hot?",
    "answerKey": "B",
    "choices": {"text": ["ice", "fire"], "label": ["A", "B"]},
  },
  {"query": "Question: Which is hot?", "choices": ["ice", "fire"], "gold": 1},
  {
    "question": {
      "stem": "Which is hot?",
      "choices": [{"text": "ice", "label": "A"}, {"text": "fire", "label": "B"}],
    },
    "answerKey": "B",
  },
  {"question": "Which is hot? (A) ice (B) fire", "AnswerKey": "B"},
  {"question": "Which is hot? (1) ice (2) fire", "AnswerKey": "2"},
]  # fmt: skip


@pytest.mark.parametrize("record", ARC_ROWS)
def test_arc_in_every_layout(record):
  row = public_sources.from_arc(record)
  assert row["prompt"] == "Which is hot?\nA) ice\nB) fire"
  assert (row["answer"], row["metadata"]["answer_text"]) == ("B", "fire")


@pytest.mark.parametrize(
  "record, answer",
  [
    ({"question": "Can a stone swim?", "answer": 0}, "no"),
    ({"question": "Can a stone sink?", "answer": "1"}, "yes"),
    ({"question": "Can a stone sink?", "answer": True}, "yes"),
    ({"question": "Can a stone sink?"}, None),
    ({"input": "Can a stone swim?", "target_scores": {"Yes": 0, "No": 1}}, "no"),
  ],
)
def test_strategyqa_in_every_layout(record, answer):
  assert public_sources.from_strategyqa(record)["answer"] == answer


@pytest.mark.parametrize("record", [{"document": "", "summary": "x"}, {"summary": "x"}])
def test_an_xsum_row_without_a_document_is_left_out(record):
  assert public_sources.from_xsum(record) == "no article or summary"


@pytest.mark.parametrize(
  "cell",
  ['["assert f(1) == \'a\'", "assert f(2)"]', "[\"assert f(1) == 'a'\", 'assert f(2)']",
   "[\"assert f(1) == 'a'\"\n 'assert f(2)']"],
)  # fmt: skip
def test_mbpp_as_csv(cell):
  row = {"text": "Do it.", "code": "def f(x): ...", "task_id": "700", "test_list": cell}
  tests = public_sources.from_mbpp(row)["metadata"]["test_cases"]
  assert tests == ["assert f(1) == 'a'", "assert f(2)"]
  assert cells.texts("assert f([1])") == ["assert f([1])"]


def test_a_zip_at_the_root_is_known_by_its_members(tmp_path):
  with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
    archive.writestr("gsm8k/main_train.jsonl", as_lines(gsm8k(3)))
    archive.writestr("gsm8k/socratic_train.jsonl", as_lines(gsm8k(3, start=50)))
    archive.writestr("__MACOSX/gsm8k/train.jsonl", "no rows")
    archive.writestr("sciq/train.jsonl", "no rows")
  assert split_counts(public_sources.read_source("gsm8k", str(tmp_path), 9, {})) == {"train": 3}


# From the first command.


def test_400_questions_as_csv_go_through(tmp_path, monkeypatch):
  (tmp_path / "my.csv").write_text(as_csv(sums(400)))
  monkeypatch.setenv("HOME", str(tmp_path))
  said = run_well(prepare_data, out_dir=tmp_path / "out", pool="~/my.csv")
  sizes = [len(rows_of(tmp_path / "out", split)) for split in ("train", "val", "test")]
  assert sizes[1:] == [20, 40] and sizes[0] > 300
  assert "SFT has nothing to train on" in said
  assert json.loads((tmp_path / "out" / "config.json").read_text())["targets"] == 0


def test_rows_that_are_too_few_say_where_they_went(tmp_path):
  rows = [{"question": "What is 1 + 1?", "answer": str(i)} for i in range(50)]
  (tmp_path / "my.csv").write_text(as_csv(rows))
  result = run(prepare_data, out_dir=tmp_path / "out", pool=tmp_path / "my.csv", shrink=True)
  one_line_error(result, "the pool has 1 clean ones (dropped: 49 same question, other answer)")
  assert not (tmp_path / "out").exists()


def test_a_domain_of_ones_own(tmp_path):
  (tmp_path / "moves.csv").write_text(as_csv(sums(60)))
  flag = dict(out_dir=tmp_path / "out", pool=tmp_path / "moves.csv", domain="chess")
  one_line_error(run(prepare_data, **flag), "--check=chess=")
  same = run(prepare_data, **flag, check="exact", prompt_field="answer", answer_field="answer")
  one_line_error(same, "is also the answer's")
  one_line_error(run(prepare_data, **flag, check="exact", mixing="weights"), "the pool's rows are")
  run_well(prepare_data, **flag, check="exact")
  row = rows_of(tmp_path / "out", "train")[0]
  assert row["domain"] == "chess" and row["metadata"]["check"] == "exact"


def test_a_named_test_file_never_trains(tmp_path):
  for i, part in enumerate(("train", "test")):
    (tmp_path / f"{part}.csv").write_text(as_csv(sums(60, start=100 * i)))
  test, train = tmp_path / "test.csv", tmp_path / "train.csv"
  run_well(prepare_data, out_dir=tmp_path / "out", pool=f"{test},{train}")
  held = {row["question"] for row in sums(60, start=100)}
  assert not held & {row["question"] for row in rows_of(tmp_path / "out", "train")}
  alone = run(prepare_data, out_dir=tmp_path / "out", pool=test)
  one_line_error(alone, "--official_splits=false")


SETS = {
  "older copy above": ["README.md", "train.json", "data/train-00000-of-00001.parquet"],
  "several": ["main/train.parquet", "socratic/train.parquet"],
}


def test_which_files_of_a_set_are_read():
  kept = hub_data.choose(SETS["older copy above"], "", None, "hf:ann/stories")
  assert kept == ["data/train-00000-of-00001.parquet"]  # the layout of ChilleD/SVAMP
  with pytest.raises(InputError, match="main, socratic; name one, as hf:OWNER/NAME/socratic"):
    hub_data.choose(SETS["several"], "", None, "hf:ann/sums")
  assert hub_data.choose(SETS["several"], "main", None, "hf:ann/sums/main") == SETS["several"][:1]


class Hub(http.server.BaseHTTPRequestHandler):
  """As much of the Hub as a download of one data set asks for."""

  files = {"README.md": b"# ducks", "data/train.csv": b"", "data/test.csv": b""}

  def do_GET(self):
    if "/resolve/" in self.path:
      name = self.path.partition("/resolve/")[2].partition("/")[2]
      self.send_response(200)
      self.send_header("ETag", f'"{name}"')
      self.send_header("X-Repo-Commit", "0" * 40)
      content = self.files[name]
    else:
      self.send_response(200 if "me/ducks" in self.path else 404)
      siblings = [{"rfilename": name} for name in self.files]
      answer = {"id": "me/ducks", "sha": "0" * 40, "siblings": siblings}
      if "/tree/" in self.path:
        answer = [{"type": "file", "path": name, "size": 1, "oid": name} for name in self.files]
      content = json.dumps(answer).encode()
    self.send_header("Content-Length", str(len(content)))
    self.end_headers()
    if self.command == "GET":
      self.wfile.write(content)

  do_HEAD = do_GET

  def log_message(self, *_args):
    pass


@pytest.fixture
def hub():
  Hub.files["data/train.csv"] = as_csv(sums(60)).encode()
  Hub.files["data/test.csv"] = as_csv(sums(20, start=100)).encode()
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  yield f"http://127.0.0.1:{server.server_port}"
  server.shutdown()


def from_hub(hub, handle: str, tmp_path):
  """A process of its own: huggingface_hub reads its environment once."""
  where = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
  return process("prepare_data.py", env=where, out_dir=tmp_path / "out", pool=handle)


@pytest.mark.parametrize("handle, read", [("hf:me/ducks", 80), ("hf:me/ducks:train", 60)])
def test_a_set_from_the_hub(handle, read, hub, tmp_path):
  result = from_hub(hub, handle, tmp_path)
  assert result.returncode == 0, result.stderr
  pool = json.loads((tmp_path / "out" / "stats.json").read_text())["domains"]["math"]["pool"]
  assert pool == read
  held = {row["question"] for row in sums(20, start=100)}
  assert not held & {row["question"] for row in rows_of(tmp_path / "out", "train")}


def test_a_set_that_is_not_there_is_named(hub, tmp_path):
  result = from_hub(hub, "hf:me/geese", tmp_path)
  one_line_error(result, "could not be downloaded")
  assert result.stderr.count("\n") == 1
  nameless = run(prepare_data, out_dir=tmp_path / "out", pool="hf:ducks")
  one_line_error(nameless, "is no data set's name")

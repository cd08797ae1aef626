"""prepare_data.py: the mixture's arithmetic, splits that hold, clean rows, checked targets, every
source, every bad input.
"""

import ast
import collections
import csv
import filecmp
import io
import json
import pathlib
import random
import re
import zipfile
from fractions import Fraction

import conftest
import pytest
import sentencepiece
from conftest import one_line_error, process
from hypothesis import given, settings
from hypothesis import strategies as st

import prepare_data as data
from lib import (
  checking,
  contract,
  folders,
  jsonl,
  mixing,
  overlap,
  prompt_lengths,
  public_sources,
  references,
  sft_targets,
  unified_rows,
)
from lib.errors import InputError

ROOT = pathlib.Path(data.__file__).parent
SHARED = ROOT.parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data here")
SEED_SIZES = {
  "science": 13610,
  "summarization": 10000,
  "math": 7473,
  "creative_writing": 5968,
  "creative_ideation": 2831,
  "logic": 2260,
  "coding": 974,
}
SEED_TABLE = {
  "science": 2277,
  "summarization": 1951,
  "math": 1687,
  "creative_writing": 1507,
  "creative_ideation": 1038,
  "logic": 927,
  "coding": 609,
}
POOL = {
  "math": 120,
  "coding": 30,
  "science": 200,
  "logic": 60,
  "creative_writing": 40,
  "creative_ideation": 40,
  "summarization": 90,
}
SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]


def phrase(r, words):
  return " ".join("".join(r.choices(SYLLABLES, k=r.randint(2, 3))) for _ in range(words))


def pool_rows(sizes, salt=0):
  rows = []
  for domain, n in sizes.items():
    r = random.Random(f"{domain} {salt}")
    for i in range(n):
      metadata, answer = (
        {"source": "own", "id": f"{domain}-{salt}-{i}"},
        {"math": str(i), "logic": "yes"}.get(domain, phrase(r, 5)),
      )
      if domain == "coding":
        answer = f"def f{i}(x):\n  return x + {i + 1}"
        metadata |= {"test_cases": [f"assert f{i}(1) == {i + 2}", f"assert f{i}(2) == {i + 3}"]}
      rows.append(
        {
          "domain": domain,
          "prompt": phrase(r, r.randint(12, 30)),
          "answer": answer,
          "metadata": metadata,
        }
      )
  return rows


def write(path, rows):
  path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
  return str(path)


def run(out, **flags):
  """prepare_data.main in this process; returns split -> rows."""
  for name in data.FLAGS:
    data.FLAGS[name].unparse()
  data.FLAGS(["prepare_data.py", f"--out_dir={out}", *(f"--{k}={v}" for k, v in flags.items())])
  data.main()
  return {split: jsonl.read_rows(f"{out}/{split}.jsonl") for split in contract.SPLITS}


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
  return write(tmp_path_factory.mktemp("pool") / "pool.jsonl", pool_rows(POOL))


@pytest.fixture(scope="module")
def prepared(pool, tmp_path_factory):
  out = tmp_path_factory.mktemp("out")
  return run(out, pool=pool, train_size=300, val_size=40, test_size=40), out


# ---- the mixture
def test_disco_gives_the_seeds_table():
  shares = mixing.mixture(SEED_SIZES, "disco", 0.5, {})
  counts = mixing.quotas(shares, 10000, SEED_SIZES, "train")
  assert sum(counts.values()) == 10000
  assert all(abs(counts[d] - n) <= 1 for d, n in SEED_TABLE.items()), counts


def test_disco_temperature_flattens():
  natural, flat, equal = (mixing.mixture(SEED_SIZES, "disco", t, {}) for t in (1.0, 0.5, 0.0))
  assert natural == pytest.approx(mixing.mixture(SEED_SIZES, "natural", 0.5, {}))
  assert natural["science"] > flat["science"] > equal["science"] == pytest.approx(1 / 7)
  assert natural["coding"] < flat["coding"] < equal["coding"]


@settings(deadline=None, max_examples=200)
@given(
  st.dictionaries(
    st.sampled_from(contract.DOMAINS),
    st.tuples(st.floats(0.01, 10), st.integers(0, 50)),
    min_size=1,
  ),
  st.integers(0, 200),
)
def test_quotas_are_exact_and_fit(domains, total):
  shares, room = (
    {d: share for d, (share, _) in domains.items()},
    {d: n for d, (_, n) in domains.items()},
  )
  if total > sum(room.values()):
    with pytest.raises(InputError, match="lower the sizes"):
      mixing.quotas(shares, total, room, "train")
    return
  counts = mixing.quotas(shares, total, room, "train")
  assert sum(counts.values()) == total and all(0 <= counts[d] <= room[d] for d in counts)
  open_ended = [
    d for d in counts if counts[d] < room[d]
  ]  # those that did not run out share as asked, to within one row
  if len(open_ended) > 1:
    part = sum(counts[d] for d in open_ended) / sum(shares[d] for d in open_ended)
    assert all(abs(counts[d] - shares[d] * part) <= 1.0 + 1e-6 for d in open_ended)


def test_weights_mix_named_domains_only(pool, tmp_path):
  splits = run(
    tmp_path,
    pool=pool,
    mixing="weights",
    domain_weights="math=0.35,coding=0.30,science=0.20,logic=0.15",
    train_size=60,
    val_size=0,
    test_size=20,
  )
  assert collections.Counter(r["domain"] for r in splits["train"]) == {
    "math": 21,
    "coding": 18,
    "science": 12,
    "logic": 9,
  }
  assert len(splits["val"]) == 0 and len(splits["test"]) == 20


def test_a_domain_that_runs_out_is_topped_up_and_said(pool, tmp_path, capsys):
  splits = run(
    tmp_path,
    pool=pool,
    mixing="weights",
    domain_weights="math=0.5,coding=0.5",
    train_size=100,
    val_size=0,
    test_size=0,
  )
  count = collections.Counter(r["domain"] for r in splits["train"])
  assert count == {"math": 70, "coding": 30}
  assert "coding ran out: 30 train rows where the mixture asks 50" in capsys.readouterr().out


def test_every_window_is_in_proportion(prepared):
  train = prepared[0]["train"]
  share = {d: n / len(train) for d, n in collections.Counter(r["domain"] for r in train).items()}
  for start in range(0, len(train) - 30):
    window = collections.Counter(r["domain"] for r in train[start : start + 30])
    assert all(abs(window[d] - 30 * s) <= 2 for d, s in share.items()), (start, window)


# ---- the splits
def test_splits_are_exact_disjoint_and_stratified(prepared):
  splits, out = prepared
  assert [len(splits[s]) for s in contract.SPLITS] == [300, 40, 40]
  questions = [r["question"] for s in contract.SPLITS for r in splits[s]]
  assert (
    len(set(questions)) == 380 and len({r["id"] for s in contract.SPLITS for r in splits[s]}) == 380
  )
  for s in ("val", "test"):
    count = collections.Counter(r["domain"] for r in splits[s])
    assert all(
      abs(count[d] / 40 - n / 300) < 0.06
      for d, n in collections.Counter(r["domain"] for r in splits["train"]).items()
    )
  config = folders.read_config(out, "prepare_data.py")
  assert config["style"] == "tags" and config["counts"] == {"train": 300, "val": 40, "test": 40}
  assert config["prompt_hash"] == contract.prompt_hash("tags")
  assert [name.split("/")[1] for name in config["inputs"]] == ["pool.jsonl"]


def test_rows_keep_the_prompt_contract(prepared):
  for row in prepared[0]["train"]:
    assert row["prompt"] == contract.format_prompt(row["question"], "tags")
    assert isinstance(row["answer"], str) and row["metadata"]["source"] == "own"
    assert list(row)[:5] == ["id", "domain", "question", "prompt", "answer"]


@pytest.mark.parametrize(
  "train, held", [(300, 40), (480, 45)]
)  # roomy; and so tight that splits borrow from each other
def test_a_row_stays_in_its_split_when_the_pool_grows(tmp_path, train, held):
  before = pool_rows(POOL)
  after = before + pool_rows({d: n // 2 for d, n in POOL.items()}, salt=1)
  random.Random(3).shuffle(after)
  home = {}
  for i, rows in enumerate((before, after)):
    splits = run(
      tmp_path / str(i),
      pool=write(tmp_path / f"{i}.jsonl", rows),
      train_size=train,
      val_size=held,
      test_size=held,
      mixing="natural",
    )
    home[i] = {r["id"]: s for s in contract.SPLITS for r in splits[s]}
  both = home[0].keys() & home[1].keys()
  crossed = [i for i in both if (home[0][i] == "train") != (home[1][i] == "train")]
  assert len(both) > 150 and not crossed
  if train == 300:
    assert all(home[0][i] == home[1][i] for i in both)


@pytest.mark.parametrize("seeds", [(1, 2), (-1, 2**80)])
def test_the_seed_changes_the_draw_but_not_the_side(seeds, tmp_path):
  pool = write(tmp_path / "p.jsonl", pool_rows({d: 5 * n for d, n in POOL.items()}))
  one, two = (
    run(tmp_path / str(s), pool=pool, train_size=200, val_size=20, test_size=20, seed=s)
    for s in seeds
  )
  ids = [{s: {r["id"] for r in splits[s]} for s in contract.SPLITS} for splits in (one, two)]
  assert ids[0]["train"] != ids[1]["train"]
  assert (
    not ids[0]["train"] & (ids[1]["val"] | ids[1]["test"]) and not ids[0]["test"] & ids[1]["val"]
  )


def test_eval_pool_and_official_marks(tmp_path):
  rows = pool_rows(POOL)
  for i, row in enumerate(rows):
    row["metadata"]["split"] = "test" if i % 4 == 0 else "train"
  marked = {f"own-{r['metadata']['id']}" for r in rows[::4]}
  splits = run(
    tmp_path / "a",
    pool=write(tmp_path / "a.jsonl", rows),
    train_size=200,
    val_size=20,
    test_size=30,
  )
  assert not marked & {r["id"] for r in splits["train"]}
  again = [
    dict(row, metadata=row["metadata"] | {"id": f"again-{i}", "split": "valid"})
    for i, row in enumerate(rows)
    if i % 4 == 1
  ]
  splits = run(
    tmp_path / "c",
    pool=write(tmp_path / "c.jsonl", rows + again),
    train_size=100,
    val_size=20,
    test_size=30,
  )
  assert not {r["prompt"] for r in again} & {
    r["question"] for r in splits["train"]
  }  # the copy that trains gives way
  held = pool_rows(dict.fromkeys(POOL, 8), salt=9)
  copied = dict(rows[0], metadata={"source": "own", "id": "copy"}, prompt=held[0]["prompt"].upper())
  splits = run(
    tmp_path / "b",
    pool=write(tmp_path / "b.jsonl", [copied, *rows]),
    eval_pool=write(tmp_path / "held.jsonl", held),
    official_splits="false",
    train_size=250,
    val_size=20,
    test_size=30,
  )
  assert {r["id"] for s in ("val", "test") for r in splits[s]} <= {
    f"own-{r['metadata']['id']}" for r in held
  }
  assert "own-copy" not in {r["id"] for r in splits["train"]}


def test_marks_tell_validation_from_test(tmp_path):
  """A published test set is tested whole; what its own validation set holds never slips in."""
  evaluating = pool_rows(dict.fromkeys(POOL, 8), salt=9)
  for i, row in enumerate(evaluating):
    row["metadata"]["split"] = "test" if i % 4 else "dev"
  tests = {f"own-{r['metadata']['id']}" for r in evaluating if r["metadata"]["split"] == "test"}
  splits = run(
    tmp_path / "out",
    pool=write(tmp_path / "pool.jsonl", pool_rows(POOL)),
    eval_pool=write(tmp_path / "evaluating.jsonl", evaluating),
    mixing="natural",
    train_size=200,
    val_size=len(evaluating) - len(tests),
    test_size=len(tests),
  )
  assert {r["id"] for r in splits["test"]} == tests


# ---- cleaning
def cleaned(questions, answers=None, domain="science"):
  rows = [
    unified_rows.unified(
      {"domain": domain, "prompt": q, "answer": (answers or ["a"] * 99)[i], "metadata": {"id": i}},
      "here",
    )
    for i, q in enumerate(questions)
  ]
  return overlap.clean(rows, overlap.read_words(rows))


LONG = (
  "A gardener carries water from the old well to the beds behind the house every morning before "
  "breakfast, and then he weeds the path for {} minutes"
)


@pytest.mark.parametrize(
  "second, dropped",
  [
    ("What  is an ATOM", True),
    ("what is an atom?!", True),
    ("What is an atom\u00a0?", True),
    ("What is a molecule?", False),
  ],
)
def test_exact_duplicates_ignore_case_space_and_punctuation(second, dropped):
  assert (1 in cleaned(["What is an atom?", second])) == dropped


@pytest.mark.parametrize(
  "first, second, dropped",
  [
    (LONG.format(10), LONG.format(10).replace("old", "deep"), True),
    (LONG.format(10), LONG.format(20), False),  # a template with another number is another question
    (LONG.format("ten"), LONG.format("six"), False),
    (LONG.format("fourteen"), LONG.format("sixteen"), False),
    (
      LONG.format(10),
      LONG.format(10)
      .replace("gardener", "baker")
      .replace("water", "bread")
      .replace("breakfast", "noon"),
      False,
    ),
    ("What is 3 + 4?", "What is 3 - 4?", False),
    ("What is 2.5 + 1?", "What is 25 + 1?", False),
    ("What is the colour of iron?", "What is the colour of gold?", False),
  ],
)
def test_near_duplicates(first, second, dropped):
  assert (1 in cleaned([first, second])) == dropped


def test_same_question_with_another_answer_is_named():
  assert cleaned(["Is ice cold?", "is ice cold"], ["yes", "no"], "logic") == {
    1: "same question, other answer"
  }
  assert (
    cleaned([LONG.format(10), LONG.format(10).replace("old", "deep")], ["4", "5"], "math") == {}
  )


def test_decontamination_by_8_grams(tmp_path):
  r, rows = random.Random(5), pool_rows({"math": 80, "science": 80})
  held = pool_rows({"math": 10, "science": 10}, salt=2)
  shared = " ".join(held[3]["prompt"].split()[:8])
  rows[7]["prompt"] = f"{phrase(r, 9)} {shared} {phrase(r, 9)}"
  rows[8]["prompt"] = (
    f"{phrase(r, 9)} {' '.join(shared.split()[:7])} {phrase(r, 9)}"  # seven words are no leak
  )
  for row in rows[80:] + held[10:]:
    row["prompt"] = (
      "Write one short story based on this prompt: " + row["prompt"]
    )  # eight words of instruction are none either
  splits = run(
    tmp_path,
    pool=write(tmp_path / "p.jsonl", rows),
    eval_pool=write(tmp_path / "e.jsonl", held),
    train_size=159,
    val_size=10,
    test_size=10,
  )
  assert {f"own-{row['metadata']['id']}" for row in rows} - {r["id"] for r in splits["train"]} == {
    "own-math-0-7"
  }
  report = json.loads((tmp_path / "stats.json").read_text())["decontamination"]
  assert report["dropped"] == 1
  assert report["examples"] == [
    {"train": "own-math-0-7", "evaluation": "own-math-2-3", "shared": shared}
  ]


# ---- code
def code_row(
  tests,
  answer="def double(x):\n  return 2 * x",
  prompt="Write a function that doubles a number.",
  **metadata,
):
  metadata = {"id": 1, "test_cases": tests} | metadata
  return unified_rows.unified(
    {"domain": "coding", "prompt": prompt, "answer": answer, "metadata": metadata}, ""
  ) | {"index": 0}


def test_code_question_names_the_function_and_shows_one_test():
  row = code_row(["assert double(2) == 4", "assert double(5) == 10"])
  assert references.complete_code(row) is None
  assert (
    "named `double`" in row["question"]
    and "assert double(2) == 4" in row["question"]
    and "double(5)" not in row["question"]
  )
  assert (
    row["metadata"]["test_cases"] == ["assert double(2) == 4", "assert double(5) == 10"]
    and row["metadata"]["shown_test"] == "assert double(2) == 4"
  )


def test_a_single_test_stays_hidden():
  row = code_row(["assert double(2) == 4"])
  assert references.complete_code(row) is None
  assert "def double(x):" in row["question"] and "assert" not in row["question"]
  assert (
    row["metadata"]["test_cases"] == ["assert double(2) == 4"]
    and row["metadata"]["shown_test"] is None
  )


def test_a_wrong_entry_point_is_put_right():
  answer = "class Box:\n  def __init__(self, s): self.s = s\ndef area(b): return b.s ** 2"
  prompt = "The area.\nYour function must be named `Box`. Example test:\nassert area(Box(2)) == 4"
  row = code_row(
    ["assert area(Box(2)) == 4", "assert area(Box(3)) == 9"], answer, prompt, entry_point="Box"
  )
  assert references.complete_code(row) is None
  assert row["metadata"]["entry_point"] == "area" and "named `area`" in row["question"]
  assert row["metadata"]["test_cases"] == ["assert area(Box(2)) == 4", "assert area(Box(3)) == 9"]


@pytest.mark.parametrize(
  "tests, answer",
  [
    ([], "def f(x): return x"),
    (["assert g(1)"], "def f(x): return x"),
    (["assert f(1"], "def f(x): return x"),
    (["assert f(1)"], "def f(x: return x"),
    (["f(1) == 2"], "def f(x): return x"),
  ],
)  # nothing runs or checks
def test_code_that_cannot_be_scored_is_dropped(tests, answer):
  assert references.complete_code(code_row(tests, answer))


def test_tests_in_a_function_that_is_called_count():
  assert (
    references.complete_code(
      code_row(["def test():\n  assert double(1) == 2\ntest()", "assert double(3) == 6"])
    )
    is None
  )


def test_an_answer_that_cannot_pass_its_own_check_is_dropped(tmp_path):
  rows = pool_rows({"math": 30, "logic": 30, "science": 30})
  rows[33]["answer"] = "Tuesday"
  rows[63] |= {
    "answer": "B",
    "metadata": rows[63]["metadata"] | {"choices": {"A": "Mars", "B": "Jupiter"}},
  }
  splits = run(
    tmp_path,
    pool=write(tmp_path / "p.jsonl", rows),
    mixing="natural",
    train_size=88,
    val_size=0,
    test_size=0,
  )
  ids = {row["id"] for row in splits["train"]}
  assert len(ids) == 88 and "own-logic-0-3" not in ids
  dropped = json.loads((tmp_path / "stats.json").read_text())["domains"]["logic"]["dropped"]
  assert dropped == {"its own answer does not pass the check": 1}


def test_references_that_fail_their_tests_are_found():
  rows = []
  for i in range(24):
    tests = [f"assert f{i}(1) == {i + 2 + (i in (3, 20))}", f"assert f{i}(2) == {i + 3}"]
    rows.append(code_row(tests, f"def f{i}(x):\n  return x + {i + 1}") | {"index": i})
  rows.append(code_row(["assert same(1) == 7"], "def same(x):\n  return 7") | {"index": 24})
  rows.append(
    code_row(["assert same(1) == 7"], "def same(x):\n  return 0") | {"index": 25}
  )  # one name, two meanings: never in one job
  rows.append(
    code_row(["assert root(4) == k"], "def root(x):\n  return 2", test_setup_code="k = 2")
    | {"index": 26}
  )
  # In one job with the others, `sqrt` must not come from a neighbour's import, nor a name from a
  # neighbour's program.
  rows.append(
    code_row(["assert near(4) == 2"], "from math import sqrt\ndef near(x):\n  return sqrt(x)")
    | {"index": 27}
  )
  rows.append(code_row(["assert far(4) == 2"], "def far(x):\n  return sqrt(x)") | {"index": 28})
  rows.append(code_row(["assert again(4) == 5"], "def again(x):\n  return f1(x)") | {"index": 29})
  rows.append(
    code_row(["assert count() == 5"], "n = 4\ndef count():\n  global n\n  n += 1\n  return n")
    | {"index": 30}
  )
  assert references.check_code(rows) == dict.fromkeys(
    (3, 20, 25, 28, 29), "reference fails its tests"
  )


def test_a_pool_in_every_form(pool, prepared, tmp_path):
  """The same rows from JSON, zip and parquet come out as from JSON lines."""
  import pyarrow.parquet

  rows = [json.loads(line) for line in pathlib.Path(pool).read_text().splitlines()]
  (tmp_path / "pool.json").write_text(json.dumps({"rows": rows}))
  with zipfile.ZipFile(tmp_path / "pool.zip", "w") as archive:
    archive.write(pool, "deep/pool.jsonl")
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "pool.parquet")
  for name in ("pool.json", "pool.zip", "pool.parquet"):
    run(tmp_path / "out", pool=tmp_path / name, train_size=300, val_size=40, test_size=40)
    assert [r["id"] for r in jsonl.read_rows(tmp_path / "out" / "train.jsonl")] == [
      r["id"] for r in prepared[0]["train"]
    ], name


def test_a_failing_reference_is_replaced(tmp_path):
  rows = pool_rows(POOL)
  for row in rows:
    if row["domain"] == "coding" and int(row["metadata"]["id"].split("-")[-1]) % 3 == 0:
      row["answer"] = row["answer"].replace("x +", "x -")
  bad = {f"own-coding-0-{i}" for i in range(0, 30, 3)}
  splits = run(
    tmp_path,
    pool=write(tmp_path / "p.jsonl", rows),
    mixing="natural",
    train_size=480,
    val_size=30,
    test_size=30,
  )
  assert not bad & {r["id"] for s in contract.SPLITS for r in splits[s]}
  assert json.loads((tmp_path / "stats.json").read_text())["domains"]["coding"]["dropped"] == {
    "reference fails its tests": 10
  }


# ---- lengths
@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  """A real sentencepiece model, trained on this file's own words."""
  folder = tmp_path_factory.mktemp("tokenizer")
  r = random.Random(0)
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(phrase(r, 12) for _ in range(500)),
    model_prefix=str(folder / "tokenizer"),
    vocab_size=400,
    hard_vocab_limit=False,
    byte_fallback=True,
    minloglevel=2,
  )
  return folder


@pytest.mark.parametrize("overlong", ["cut", "drop"])
def test_no_prompt_exceeds_the_limit(tokenizer, tmp_path, overlong):
  r, rows = random.Random(1), pool_rows(POOL)
  articles = [row for row in rows if row["domain"] == "summarization"]
  for row in articles[::2]:
    row["prompt"] = (
      " ".join(phrase(r, 9).capitalize() + "." for _ in range(20))
      + "\nSummarize the article above."
    )
  limit, model = (
    400,
    sentencepiece.SentencePieceProcessor(model_file=str(tokenizer / "tokenizer.model")),
  )
  splits = run(
    tmp_path,
    pool=write(tmp_path / "p.jsonl", rows),
    tokenizer=tokenizer,
    max_prompt_tokens=limit,
    overlong=overlong,
    mixing="natural",
    train_size=300,
    val_size=30,
    test_size=30,
  )
  rows = [row for s in contract.SPLITS for row in splits[s]]
  assert len(rows) == 360 and {row["domain"] for row in rows if row["metadata"].get("cut")} <= set(
    contract.CREATIVE_DOMAINS
  )
  assert max(len(model.encode(row["prompt"])) + 1 for row in rows) <= limit
  shortened = [row for row in rows if row["metadata"].get("cut")]
  table = json.loads((tmp_path / "stats.json").read_text())["domains"]["summarization"]
  if overlong == "cut":
    assert (
      len(shortened) > 10
      and table["cut"] == len(shortened)
      and table["prompt_tokens"]["max"] <= limit
    )
    assert all(
      re.search(r"\. \[…\]\nSummarize the article above\.$", row["question"]) for row in shortened
    )
  else:
    assert not shortened and table["dropped"]["prompt too long"] > 10


def test_cut_keeps_whole_sentences_or_words():
  def fits(n: int):
    return lambda text: len(text) <= n

  assert (
    prompt_lengths.cut("One two. Three four. Five six.", fits(27)) == "One two. Three four. […]"
  )
  assert prompt_lengths.cut("alpha beta gamma delta", fits(15)) == "alpha beta […]"
  assert prompt_lengths.cut("alpha", fits(3)) is None


# ---- targets
def wrong_equations(text):
  """An independent reading: every "a op b [op c …] = d" between plain numbers, by Python's own
  Fractions.
  """
  number, wrong = r"\$?\d+(?:,\d{3})*(?:\.\d+)?", []
  before, after = (
    r"(?<![\d.,%*/+)x–$-])(?<![\d.%*/+)x–-] )",
    r"(?![\d.]*\d|,\d|\s*[-+*/%(]|[a-zA-Z])",
  )
  for m in re.finditer(
    rf"{before}({number}(?:\s*[-+*/]\s*{number})+)\s*=\s*({number}){after}", text
  ):
    plain = [re.sub(r"[$,\s]", "", side) for side in m.groups()]
    value = eval(re.sub(r"(\d+(?:\.\d+)?)", r"Fraction('\1')", plain[0]), {"Fraction": Fraction})
    if value != Fraction(plain[1]):
      wrong.append(m.group())
  return wrong


SOLVED = [  # solution, answer, may it become a target
  (
    "Ann has 3*4 = <<3*4=12>>12 pens.\nShe gives 5 away, so 12-5 = <<12-5=7>>7 are left.",
    "7",
    True,
  ),
  (
    "He pays $2.50 x 4 = $<<2.5*4=10>>10.\nWith a tip of 20% that is 10*1.2 = $<<10*1.2=12>>12.",
    "12",
    True,
  ),
  ("Each gets 7/2 = <<7/2=3.5>>3.5 cakes.", "3.5", True),
  ("Half of 9 is 9/2 = 4.5, so 4.5*2 = 9.", "9", True),
  ("55-30=25, 25-9=16", "16", True),
  ("9+3=12,12+9=21", "21", True),
  ("1,200 / 4 = 300, 300 + 1,000 = 1,300", "1300", True),
  ("3 + 4 = 8, 8 * 2 = 16", "16", False),
  ("5 hours * 3 km = <<5*3=15>>15 km", "15", True),
  ("It takes 10/3 = <<10/3=3.33>>3.33 days", "3.33", False),  # rounded: a wrong equation
  ("She has 3+4 = <<3+4=8>>8 pens", "8", False),
  ("2*3 = 6 + 4 = 10", "10", False),  # a chain that is not one
  ("2x + 3 = 11\nx = <<8/2=4>>4", "4", False),
]  # algebra cannot be checked here


@pytest.mark.parametrize("solution, answer, good", SOLVED)
@pytest.mark.parametrize("style", contract.STYLES)
def test_targets_hold_only_right_equations(solution, answer, good, style):
  row = unified_rows.unified(
    {"domain": "math", "prompt": "?", "answer": answer, "metadata": {"solution": solution}}, ""
  )
  target = sft_targets.make_target(row, style)
  assert (target is not None) == good
  if good:
    assert (
      contract.parse_response(target, style).answer == answer
      and "<<" not in target
      and not wrong_equations(target)
    )


def test_dual_stream_sections_say_something_true():
  sections = sft_targets.monologue(SOLVED[0][0], "7")
  assert sections["Plan"] == "1) multiply 3 by 4; 2) subtract 5 from the result of step 1"
  assert sections["Evidence"] == "3 * 4 = 12; 12 - 5 = 7"
  assert sections["Sanity_check"] == "7 + 5 = 12, so undoing the last step leads back to 12."
  assert (
    sft_targets.monologue(SOLVED[0][0], "8") is None
  )  # the calculations do not end in the answer


@pytest.mark.parametrize(
  "text, value",
  [
    ("48/2", 24),
    ("$1,000 x 3", 3000),
    ("20% * 50", 10),
    ("(1+2)*.5", Fraction(3, 2)),
    ("7-−2", 9),
    ("1/0", None),
    ("2**9999999", None),
    ("f(2)", None),
    ("", None),
    ("2 3", None),
  ],
)
def test_calculate(text, value):
  found = sft_targets.calculate(text)
  assert (found and found.value) == value


# ---- sources
RECORDS = {
  "gsm8k": [
    {"question": "Ann has 2 pens and buys 3. How many?", "answer": "2+3 = <<2+3=5>>5\n#### 1,005"}
  ],
  "mbpp": [
    {
      "text": "Add one to a number.",
      "code": "def add_one(x):\r\n  return x + 1",
      "task_id": 700,
      "test_setup_code": "",
      "test_list": ["assert add_one(1) == 2", "assert add_one(4) == 5"],
      "challenge_test_list": [],
    }
  ],
  "sciq": [
    {
      "question": "What is frozen water called?",
      "correct_answer": "ice",
      "support": "Water freezes to ice.",
      "distractor1": "fog",
    }
  ],
  "arc_easy": [
    {
      "id": "A1",
      "question": "Which is hot?",
      "answerKey": "1",
      "choices": {"text": ["fire", "snow"], "label": ["1", "2"]},
    },
    {
      "id": "A2",
      "question": "Which is cold?",
      "answerKey": "A",
      "choices": {"text": ["snow", "Snow "], "label": ["A", "B"]},
    },
  ],
  "strategyqa": [
    {
      "qid": "q1",
      "question": "Can a stone swim?",
      "answer": False,
      "facts": ["Stones sink.", "Swimming is not sinking."],
    }
  ],
  "writingprompts": [
    {
      "prompt": "[ WP ] You do n't know who you are , `` said the cat '' .",
      "story": "It was n't me . " * 20,
    },
    {"prompt": "[ OT ] A talk about writing .", "story": "word " * 40},
  ],
  "dolly": [
    {
      "instruction": "Name things to do in rain",
      "context": "",
      "response": "Dance.",
      "category": "brainstorming",
    },
    {
      "instruction": "Sum this up",
      "context": "Long text.",
      "response": "Short.",
      "category": "summarization",
    },
    {"instruction": "Who?", "context": "", "response": "Me.", "category": "open_qa"},
  ],
  "no_robots": [
    {
      "prompt_id": "p1",
      "category": "Generation",
      "prompt": "Write a poem.",
      "messages": [
        {"role": "user", "content": "Write a poem."},
        {"role": "assistant", "content": "Roses."},
      ],
    },
    {"prompt_id": "p2", "category": "Chat", "prompt": "Hi", "messages": []},
  ],
  "cnn_dailymail": [
    {
      "id": "c1",
      "article": "LONDON, England (CNN) -- A dog ran home . People cheered .",
      "highlights": "Dog home .\nCheers .",
    }
  ],
  "xsum": [
    {
      "id": "x1",
      "document": "The bridge was closed on Monday. " * 8,
      "summary": "A bridge is closed.",
    }
  ],
}
EXPECTED = {
  "gsm8k": ("math", "1005"),
  "mbpp": ("coding", "def add_one(x):\n  return x + 1"),
  "sciq": ("science", "ice"),
  "arc_easy": ("science", "A"),
  "strategyqa": ("logic", "no"),
  "writingprompts": ("creative_writing", "It wasn't me."),
  "dolly": ("creative_ideation", "Dance."),
  "no_robots": ("creative_writing", "Roses."),
  "cnn_dailymail": ("summarization", "Dog home.\nCheers."),
  "xsum": ("summarization", "A bridge is closed."),
}


def published(folder, name, form):
  """The records in a form that Kaggle or Hugging Face ships."""
  folder, rows = folder / name, RECORDS[name]
  folder.mkdir(parents=True)
  text = "".join(json.dumps(r) + "\n" for r in rows)
  if form == "jsonl":
    (folder / "train.jsonl").write_text(text)
  elif form == "json":
    (folder / "train.json").write_text(json.dumps(rows))
  elif form == "zip":
    with zipfile.ZipFile(folder / "train.zip", "w") as archive:
      archive.writestr("inside/train.jsonl", text)
  elif form == "parquet":
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(
      pyarrow.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet"
    )
  else:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    (folder / "train.csv").write_text(file.getvalue())


@pytest.mark.parametrize(
  "head",
  [
    "LONDON, England (CNN) -- ",
    "(CNN) -- ",
    "(CNN)",
    "CAVITE CITY, Philippines (CNN)  -- ",
    "By . Ann Lee . ",
    "By . Ann Lee . and . Bo Hill . ",
    "By . Ann Lee . and Bo Hill . UPDATED: . 09:53 EST, 12 January 2012 . ",
    "By . Daily Mail Reporter . PUBLISHED: . 07:04 EST, 9 January 2014 . | . "
    "UPDATED: . 07:16 EST, 9 January 2014 . ",
    "By . Ann Lee . Last updated at 2:18 PM on 30th December 2011 . ",
    "",
  ],
)
def test_bylines_are_no_part_of_an_article(head):
  row = public_sources.from_cnn(
    {"article": f"{head}A dog ran home . By . noon people cheered .", "highlights": "Dog home ."}
  )
  assert (
    row["prompt"] == "Summarize the following article:\n\nA dog ran home. By. noon people cheered."
  )


def test_instructions_about_a_text_that_is_not_there_are_left_out():
  """The copy of Dolly without categories has no contexts either."""

  def kind(text: str) -> dict:
    return public_sources.from_dolly({"instruction": text, "text": "Yes."})

  assert kind("List three ideas for rain")["domain"] == "creative_ideation"
  assert kind("Write a paragraph of a blog about rain")["domain"] == "creative_writing"
  assert (
    kind("Don t list ideas that I m tired of")["prompt"].strip()
    == "Don't list ideas that I'm tired of"
  )
  for text in (
    "List the dates in the passage",
    "Extract names and list them",
    "Give ideas from this text",
    "What is rain?",
  ):
    assert kind(text) == "another kind of task"


def test_text_that_was_read_in_the_wrong_encoding_is_put_right():
  def prompt(text: str) -> str:
    row = public_sources.from_xsum({"document": text * 8, "summary": "A bridge."})
    return row["prompt"]

  assert "cost £5 – a café" in prompt("The bridge cost £5 – a café. ".encode().decode("cp1252"))
  assert "cost £5 – a café" in prompt("The bridge cost £5 – a café. ")


@pytest.mark.parametrize("form", ["jsonl", "json", "zip", "parquet", "csv"])
@pytest.mark.parametrize("name", list(RECORDS))
def test_every_source_in_every_form(name, form, tmp_path):
  if form == "csv" and name in ("mbpp", "no_robots", "strategyqa"):
    pytest.skip("not shipped as CSV: lists do not fit in a cell")
  published(tmp_path, name, form)
  digests = {}
  rows = public_sources.read_source(name, str(tmp_path), 100, digests)
  assert (rows[0]["domain"], rows[0]["answer"][: len(EXPECTED[name][1])]) == EXPECTED[name]
  assert (
    len(rows) == {"dolly": 2}.get(name, 1)
    and len(digests) == 1
    and rows[0]["metadata"]["source"] == name
  )
  if name == "writingprompts":
    assert (
      rows[0]["question"]
      == 'Write a short story based on this prompt: You don\'t know who you are, "said the cat".'
    )
  if name == "cnn_dailymail":
    assert (
      rows[0]["question"] == "Summarize the following article:\n\nA dog ran home. People cheered."
    )


def test_test_rows_leave_room_for_training_rows(tmp_path):
  for part in ("test", "train"):
    rows = [{"question": f"{part} {i} plus 1?", "answer": f"#### {i + 1}"} for i in range(8)]
    (tmp_path / f"gsm8k_{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  rows = public_sources.read_source("gsm8k", str(tmp_path), 10, {})
  assert [row["metadata"]["split"] for row in rows] == ["train"] * 8 + ["test"] * 2


def test_sources_run_through(tmp_path):
  for name in RECORDS:
    published(tmp_path / "raw", name, "jsonl")
  splits = run(
    tmp_path / "out",
    sources=",".join(RECORDS),
    raw_dir=tmp_path / "raw",
    train_size=11,
    val_size=0,
    test_size=0,
  )
  assert {r["domain"] for r in splits["train"]} == set(contract.DOMAINS)
  math = next(r for r in splits["train"] if r["domain"] == "math")
  assert math["id"] == "gsm8k-train-0" and "<<" not in math["target"]


def test_a_set_that_cannot_be_had_says_what_to_do(tmp_path, monkeypatch):
  import huggingface_hub
  import kagglehub

  def offline(*_args, **_options):
    raise ConnectionError("no route")

  monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
  monkeypatch.setattr(kagglehub, "dataset_download", offline)
  with pytest.raises(InputError, match=r"gsm8k could not be downloaded.*put its files.*--raw_dir="):
    public_sources.read_source("gsm8k", str(tmp_path), 10, {})


# ---- bad input
GOOD = (
  json.dumps({"domain": "math", "prompt": "What is 1 + 1?", "answer": "2", "metadata": {"id": 1}})
  + "\n"
)
BAD_FILES = [
  (b"", "holds no training row"),
  (b"\n\n", "holds no training row"),
  (
    GOOD.encode() + GOOD.replace("math", "maths").encode(),
    r"p\.jsonl:2: unknown domain 'maths'; valid: math, coding",
  ),
  (GOOD.encode() + b'{"domain": "math", "prompt": "?"}\n', r"p\.jsonl:2: \"answer\" is missing"),
  (GOOD.encode() + b'{"domain": "math", "prompt": "", "answer": "1"}\n', r"p\.jsonl:2: \"prompt\""),
  (
    GOOD.encode() + b'{"domain": ["math"], "prompt": "?", "answer": "1"}\n',
    r"p\.jsonl:2: unknown domain",
  ),
  (
    GOOD.encode() + b'{"domain": "math", "prompt": "?", "answer": "1", "metadata": [1]}\n',
    r"p\.jsonl:2: \"metadata\" is list",
  ),
  (GOOD.encode() + b"[1, 2]\n", r"p\.jsonl:2: expected a JSON object"),
  (
    GOOD.encode() + b'{"domain": "math", "prompt": "?", "answer": "1", "reasoning": 5}\n',
    r"p\.jsonl:2: \"reasoning\" is 5; expected",
  ),
  (
    GOOD.encode()
    + b'{"domain": "coding", "prompt": "?", "answer": "1", '
    + b'"metadata": {"test_cases": "assert f(1)"}}\n',
    r"p\.jsonl:2: \"test_cases\" is 'assert f\(1\)'; expected a list",
  ),
  (GOOD.encode() + b"{oops\n", r"p\.jsonl:2 is not a JSON row"),
  (GOOD.encode() + b"[" * 99999 + b"\n", r"p\.jsonl:2 is not a JSON row"),
  (GOOD.encode() + GOOD.replace('"2"', "NaN").encode(), r"p\.jsonl:2 is not a JSON row"),
  (
    GOOD.encode()
    + GOOD.replace("1 + 1", "caf\u00e9").encode("latin-1").replace(b"\\u00e9", b"\xe9"),
    r"p\.jsonl:2 is not UTF-8",
  ),
  (
    GOOD.encode() + GOOD.replace("1 + 1", r"\ud83d").encode(),
    r"p\.jsonl:2 holds half of a surrogate pair",
  ),
  (
    GOOD.encode() + GOOD.replace("1 + 1", "1 + 2").encode(),
    r"p\.jsonl:2: id 'math-1' stands already at .*p\.jsonl:1, with another prompt",
  ),
  (
    GOOD.encode() + b'{"domain": "math", "prompt": "' + b"x" * (50 << 20) + b'"}\n',
    r"p\.jsonl:2 is longer than 16 MiB",
  ),
]


@pytest.mark.parametrize("content, message", BAD_FILES, ids=[m for _, m in BAD_FILES])
def test_bad_files(content, message, tmp_path):
  (tmp_path / "p.jsonl").write_bytes(content)
  with pytest.raises(InputError, match=message) as caught:
    run(tmp_path / "out", pool=tmp_path / "p.jsonl", train_size=1, val_size=0, test_size=0)
  assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
  assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize(
  "name, content, message",
  [
    ("p.zip", b"PK no zip", "is no readable zip .BadZipFile"),
    ("p.parquet", b"PAR1", "not rows of questions and answers"),
    ("p.csv", b"domain,prompt,answer\nmath,caf\xe9,1\n", "answers .UnicodeDecodeError"),
    ("p.csv", b"domain,prompt,answer\nmath,one,1\nmaths,two", r"p\.csv:3: unknown domain"),
    ("p.json", b'[{"domain": "math"},', r"p\.json:1 is not a JSON row"),
    ("p.json", b'{"rows": [{"domain": "x"}]}', "p.json:1: unknown"),
    ("p.json", b"\xff", "answers .UnicodeDecodeError"),
    (
      "p.json",
      b'[{"domain": "math", "prompt": "\\ud83d", "answer": "1"}]',
      "surrogates not allowed",
    ),
  ],
)
def test_bad_files_of_other_forms(name, content, message, tmp_path):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(InputError, match=message) as caught:
    run(tmp_path / "out", pool=tmp_path / name, train_size=1, val_size=0, test_size=0)
  assert "\n" not in str(caught.value) and not (tmp_path / "out" / "config.json").exists()


def test_a_record_that_is_not_as_published_is_named(tmp_path):
  (tmp_path / "gsm8k").mkdir()
  write(tmp_path / "gsm8k" / "train.jsonl", [RECORDS["gsm8k"][0], {"question": "How many?"}])
  with pytest.raises(
    InputError, match=r"train\.jsonl:2: not a gsm8k record as openai/gsm8k publishes it .KeyError"
  ):
    public_sources.read_source("gsm8k", str(tmp_path), 10, {})


@pytest.mark.parametrize(
  "flags, message",
  [
    ({"pool": "{folder}"}, "is a folder; expected a JSONL file"),
    ({"pool": "{folder}/none.jsonl"}, "does not exist"),
    (
      {"mixing": "weights", "domain_weights": "maths=1"},
      "names 'maths', which is no domain; valid: math",
    ),
    ({"mixing": "weights", "domain_weights": ""}, "sum above 0"),
    ({"mixing": "weights", "domain_weights": "math=0"}, "sum above 0"),
    ({"mixing": "weights", "domain_weights": "math=-1,logic=2"}, "non-negative"),
    ({"mixing": "weights", "domain_weights": "math=lots"}, "not name=number"),
    ({"mixing": "weights", "domain_weights": "math=nan"}, "sum above 0"),
    ({"train_size": 5000}, "ask for 5,0.* rows, the pool has 580 clean"),
    ({"test_size": 600, "train_size": 1}, "ask for"),
    (
      {"mixing": "weights", "domain_weights": "coding=1", "train_size": 90},
      "lower the sizes or add rows",
    ),
    ({"tokenizer": "{folder}"}, "has no tokenizer.model"),
    ({"out_dir": "{file}"}, "is a file; expected a folder"),
    ({"sources": "gsm9k"}, "names 'gsm9k'; valid: gsm8k"),
    ({"sources": "gsm8k", "raw_dir": "{folder}/none"}, "is not a folder"),
  ],
)
def test_bad_flags(flags, message, pool, tmp_path):
  known = {"folder": tmp_path, "file": pool}
  flags = {"pool": pool, "train_size": 20, "val_size": 5, "test_size": 5} | {
    k: str(v).format(**known) for k, v in flags.items()
  }
  with pytest.raises(InputError, match=message):
    run(flags.pop("out_dir", tmp_path / "out"), **flags)
  assert not (tmp_path / "out" / "config.json").exists()


def test_a_prompt_limit_below_the_template(pool, tokenizer, tmp_path):
  with pytest.raises(InputError, match="leaves no room for a question"):
    run(
      tmp_path,
      pool=pool,
      tokenizer=tokenizer,
      max_prompt_tokens=10,
      train_size=20,
      val_size=0,
      test_size=0,
    )


def test_a_failed_run_ends_in_one_line_and_leaves_the_old_folder(prepared, pool, tmp_path):
  out = prepared[1]
  before = (out / "config.json").read_text()
  result = conftest.run(data, out_dir=out, pool=pool, train_size=9999)
  one_line_error(result)
  assert result.err.count("\n") == 1
  # Nothing was touched: the folder is still what its config says.
  assert (out / "config.json").read_text() == before


def test_same_bytes_whatever_the_environment(prepared, pool, tmp_path):
  """Byte-identical files under another hash seed, locale, directory and process."""
  result = process(
    "prepare_data.py",
    env=dict(PYTHONHASHSEED="77", LC_ALL="C", TZ="Asia/Tokyo", PYTHONUTF8="0"),
    out_dir=tmp_path / "again",
    pool=pool,
    train_size=300,
    val_size=40,
    test_size=40,
  )
  assert result.returncode == 0, result.stderr
  for name in ("train.jsonl", "val.jsonl", "test.jsonl", "stats.json", "mixture.png"):
    assert filecmp.cmp(prepared[1] / name, tmp_path / "again" / name, shallow=False), name


# ---- built-in, real
@pytest.mark.parametrize("style", contract.STYLES)
def test_built_in_pool(style, tmp_path):
  splits = run(tmp_path, tokenizer="", train_size=1000, val_size=50, test_size=100, style=style)
  table = json.loads((tmp_path / "stats.json").read_text())["domains"]
  assert list(table) == list(contract.DOMAINS) and sum(d["kept"] for d in table.values()) >= 5000
  for row in splits["train"]:
    taught = row["metadata"]["use"] == "sft" and (style == "tags" or row["domain"] == "math")
    assert taught == ("target" in row) and (
      not taught or contract.parse_response(row["target"], style)
    )
    if row["domain"] in ("math", "science", "logic"):
      assert checking.is_correct(row["domain"], row["answer"], row["answer"], row["metadata"])
    if row["domain"] == "math" and "target" in row:
      assert not wrong_equations(row["target"])


@needs_shared
def test_real_raw_sets_are_read_as_they_stand(tmp_path):
  names = [n for n in public_sources.SOURCES if n != "no_robots"]
  splits = run(
    tmp_path,
    sources=",".join(names),
    raw_dir=SHARED / "raw",
    train_size=3000,
    val_size=100,
    test_size=200,
  )
  table = json.loads((tmp_path / "stats.json").read_text())["domains"]
  assert (
    table["math"]["pool"] == 8792
    and table["coding"]["pool"] == 974
    and table["logic"]["pool"] == 2290
  )
  assert len(splits["train"]) == 3000
  official = {"test", "dev", "validation", "val"}
  assert not [r for r in splits["train"] if r["metadata"]["split"] in official]
  for row in splits["train"]:
    text = row["question"] + row.get("target", "") * (row["domain"] == "math")
    assert not re.search(r"<<|####|\[ ?WP ?\]|``| n't\b", text), row["id"]
    if row["domain"] == "coding":
      ast.parse(row["answer"])
      assert row["metadata"]["entry_point"] in row["question"] and "\r" not in row["answer"]
      tests, shown = row["metadata"]["test_cases"], row["metadata"]["shown_test"]
      assert shown is None or shown in tests  # what the prompt shows is scored as well
      assert not any(test in row["question"] for test in tests if test != shown)


@needs_shared
@pytest.mark.parametrize("style", contract.STYLES)
def test_no_gsm8k_target_holds_a_wrong_equation(style):
  rows = public_sources.read_source("gsm8k", str(SHARED / "raw"), 9000, {})
  targets = [t for row in rows if (t := sft_targets.make_target(row, style))]
  assert len(targets) > 0.8 * len(rows)
  assert [w for t in targets for w in wrong_equations(t)] == []

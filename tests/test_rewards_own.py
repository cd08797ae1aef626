"""A reward and a check of the user's own: FILE.py:FUNCTION, metadata["check"], --check."""

import json
import math
import pathlib

import pytest
from conftest import one_line_error, run, run_well

import rewards
from lib import checking, own_checks, own_rewards
from lib.errors import InputError

ROOT = pathlib.Path(__file__).resolve().parents[1]
WELL = "<reasoning>4 and 5 make 9</reasoning>\n<answer>9</answer>"
MINE = """
import math

def words(completions, **columns):
  return [float(len(text.split())) for text in completions]

def says_answer(completions, answer):
  return [float(truth != "" and truth in text) for text, truth in zip(completions, answer)]

def tagged(completions, answer, **columns):
  return [float(f"<answer>{a}</answer>" in c) if a else None for c, a in zip(completions, answer)]

def level(completions, difficulty):
  return difficulty

def one(prompts, completions):
  return [1] * len(prompts)

def too_few(completions):
  return completions[1:]

def nothing(completions):
  pass

def not_a_number(completions):
  return [0.0, math.nan, 0.0][: len(completions)]

def word(completions):
  return ["good" for _ in completions]

def divides(completions):
  return [1 / len(text) for text in completions]

def sorts(completions, **columns):
  completions.sort()
  return [0.0 for _ in completions]

PI = 3.14
"""


@pytest.fixture()
def mine(tmp_path, monkeypatch):
  """my.py in the working directory."""
  (tmp_path / "my.py").write_text(MINE)
  monkeypatch.chdir(tmp_path)
  return tmp_path


def pay(value: str, completions: list[str], **columns) -> dict[str, list[float]]:
  """{component: its values} of completions to nine empty prompts."""
  count = len(completions)
  rows = {"domain": ["math"] * count, "question": ["?"] * count, "answer": ["9"] * count}
  rows |= {"metadata": ["{}"] * count} | columns
  functions = rewards.make_rewards(value)
  return {f.__name__: f(["p"] * count, completions, **rows) for f in functions}


@pytest.mark.parametrize(
  "value, expected",
  [
    ("my.py:words", {"words": [6.0, 1.0]}),
    ("my.py:words=0.5", {"words": [3.0, 0.5]}),
    ("./my.py:says_answer, my.py:words=2", {"says_answer": [1.0, 1.0], "words": [12.0, 2.0]}),
    ("my.py:tagged", {"tagged": [1.0, 0.0]}),
    ("my.py:one,multi_domain=0.5", {"one": [1.0, 1.0], "format": [0.1, 0.0]}),
    ("my.py:sorts,my.py:words", {"sorts": [0.0, 0.0], "words": [6.0, 1.0]}),
  ],
)
def test_values(mine, value, expected):
  paid = pay(value, [WELL, "9"])
  assert {name: paid[name] for name in expected} == expected


def test_none_pays_nothing_and_metadata_is_a_column(mine):
  assert pay("my.py:tagged", ["9"], answer=[""]) == {"tagged": [0.0]}
  columns = {"metadata": ['{"difficulty": 3}', '{"difficulty": 0.5}']}
  assert pay("my.py:level", ["a", "b"], **columns) == {"level": [3.0, 0.5]}


def test_the_range_of_a_weighted_system():
  (form, *_) = rewards.make_rewards("multi_domain=3")
  assert form.range == (0.0, pytest.approx(0.6)) and form.advice


@pytest.mark.parametrize(
  "value, message",
  [
    ("no.py:words", "no.py does not exist"),
    ("my.py:wrods", "no function 'wrods'; its functions: words, says_answer"),
    ("my.py:PI", "no function 'PI'"),
    ("my.py", "--rewards has 'my.py'; expected"),
    ("", "--rewards has ''; expected"),
    ("my.py:words=0", "weight '0'; expected a number above 0"),
    ("my.py:words=nan", "weight 'nan'"),
    ("my.py:words=much", "weight 'much'"),
    ("multi_domian", "'multi_domian' is unknown; valid: multi_domain, curriculum"),
    ("my.py:words,my.py:words", "names my.words twice"),
    ("broken.py:f", "broken.py cannot be imported: SyntaxError"),
    ("ends.py:f", "ends.py cannot be imported: SystemExit"),
  ],
)
def test_a_value_that_cannot_be_used(mine, value, message):
  (mine / "broken.py").write_text("def f(:\n")
  (mine / "ends.py").write_text("raise SystemExit\n")
  with pytest.raises(InputError, match=".") as error:
    rewards.make_rewards(value)
  assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
  "name, message",
  [
    ("too_few", "my.py:too_few returned 2 values for 3 completions; expected one per completion"),
    ("nothing", "returned None; expected a list of 3 floats"),
    ("not_a_number", "returned nan at row 2 of 3, completion 'b'"),
    ("word", "returned 'good' at row 1 of 3"),
    ("divides", "raised ZeroDivisionError: division by zero at row 3 of 3, completion ''"),
    ("level", "asks for the column 'difficulty'; there are prompts, completions, domain"),
  ],
)
def test_a_function_that_fails_says_where(mine, name, message):
  with pytest.raises(InputError) as error:
    pay(f"my.py:{name}", ["a", "b", ""])
  assert message in str(error.value)


def test_names_are_kept_apart(mine):
  (mine / "other.py").write_text("def words(completions):\n  return [0.0 for _ in completions]\n")
  assert set(pay("my.py:words,other.py:words", ["a"])) == {"my.words", "other.words"}
  both = set(pay("multi_domain,four_component", ["a"]))
  assert {"multi_domain.format", "four_component.format", "length", "coherence"} <= both


def test_an_edited_file_counts_and_may_import_its_neighbour(mine):
  (mine / "near.py").write_text("PAY = 2.0\n")
  own = mine / "edited.py"
  own.write_text("import near\ndef f(completions):\n  return [near.PAY for _ in completions]\n")
  before = own_rewards.digests("edited.py:f")
  assert pay("edited.py:f", ["a"]) == {"f": [2.0]}
  own.write_text("def f(completions):\n  return [7.0 for _ in completions]\n")
  assert pay("edited.py:f", ["a"]) == {"f": [7.0]}
  assert before != own_rewards.digests("edited.py:f") and own_rewards.digests("curriculum") == {}


@pytest.mark.parametrize(
  "value, code, paid, unpaid",
  [
    # Longer is better: everything long is paid.
    ("my.py:words", 2, ["padding", "very long", "keyword salad"], ["near miss", "nothing"]),
    # The truth anywhere in the text: listing every option is paid, a wrong answer is not.
    ("my.py:says_answer", 2, ["every option listed", "no tags", "text before"], ["padding"]),
    # Everybody gets the same: every cheat is paid, the empty response too.
    ("my.py:one", 2, ["nothing", "near miss", "refusal"], []),
    ("multi_domain", 0, [], []),
    ("multi_domain,my.py:tagged=0.1", 0, [], []),
  ],
)
def test_self_test_names_the_cheats_that_are_paid(mine, value, code, paid, unpaid):
  result = run(rewards, self_test=True, rewards=value, code_rewards="off")
  assert result.code == code and "Traceback" not in result.err
  assert f"self-test of {value}" in result.out
  assert len(result.err.splitlines()) == (1 if code else 0)
  named = result.err.strip().rpartition(": ")[2].split(", ") if code else []
  assert set(paid) <= set(named) and not set(unpaid) & set(named)


def test_explain_under_an_own_reward(mine):
  row = {"id": "a-1", "domain": "math", "question": "?", "answer": "9", "metadata": {}}
  path = mine / "responses.jsonl"
  path.write_text(json.dumps(row | {"response": WELL}) + "\n")
  said = run_well(rewards, explain=path, rewards="my.py:words,multi_domain")
  assert "reward 7.000, right" in said and "words" in said
  result = run(rewards, explain=path, rewards="my.py:divides", weights="format=1")
  one_line_error(result, "--weights are four_component's")


CHECKED = [
  # check, answer, truth, right
  ("exact", "Nf3", "Nf3", True),
  ("exact", " Nf3\n", "Nf3", True),
  ("exact", "nf3", "Nf3", False),
  ("exact", "", "", False),
  ("number", "1,234.0", "1234", True),
  ("number", "The answer is 1234.", "1234", True),
  ("number", "1235", "1234", False),
  ("choice", "B", "Oslo", True),
  ("choice", "Oslo", "Oslo", True),
  ("choice", "A", "Oslo", False),
]


@pytest.mark.parametrize("check, answer, truth, right", CHECKED)
def test_a_domain_of_ones_own_is_checked_as_its_row_says(check, answer, truth, right):
  metadata = {"check": check, "choices": ["Rome", "Oslo"]}
  assert checking.is_correct("chess", answer, truth, metadata) is right
  text = f"<reasoning>I see it</reasoning>\n<answer>{answer}</answer>"
  assert checking.is_correct("chess", text, truth, metadata) is right
  (_, correctness, *_) = rewards.make_rewards("multi_domain")
  columns = {"domain": ["chess"], "answer": [truth], "metadata": [json.dumps(metadata)]}
  assert correctness(["p"], [text], **columns) == [0.8 if right else 0.0]


def test_without_a_check_a_domain_is_creative():
  for metadata in ({}, {"check": "judge"}):
    assert not checking.is_checked("chess", metadata)
    with pytest.raises(ValueError, match="no right answers"):
      checking.is_correct("chess", "Nf3", "Nf3", metadata)
  assert checking.is_checked("math", {"check": "judge"})  # the four keep their own checkers
  assert not checking.is_checked("coding", {}, code_rewards="off")


def test_check_names_a_function_which_a_row_may_not(mine):
  (mine / "ends.py").write_text(
    "def same(answer, truth, metadata):\n  return answer[-1] == truth[-1]\n"
  )
  with pytest.raises(InputError, match="allow a function of yours with --check=chess=FILE"):
    checking.is_correct("chess", "Qd3", "Nf3", {"check": "ends.py:same"})
  try:
    own_checks.use(["chess=ends.py:same", "poetry=judge"])
    assert checking.is_correct("chess", "Qd3", "Nf3", {"check": "exact"})  # the flag wins
    assert not checking.is_checked("poetry", {"check": "exact"})
    grades = checking.grade(["chess", "chess"], ["Qd3", "Qd4"], ["Nf3", "Nf3"])
    assert grades == [1.0, 0.0]
  finally:
    own_checks.use([])


@pytest.mark.parametrize(
  "items", [["math=exact"], ["chess"], ["chess=regex"], ["=exact"], ["chess=no.py:f"]]
)
def test_a_check_that_cannot_be_used(items):
  with pytest.raises(InputError):
    own_checks.use(items)


def test_rows_are_refused_before_anything_long():
  row = {"id": "c-1", "domain": "chess", "answer": "", "metadata": {"check": "exact"}}
  with pytest.raises(InputError, match="row c-1 has the check 'exact' but no answer"):
    own_checks.check_rows([row])
  with pytest.raises(InputError, match="the check 'regexp'; expected exact, number, choice, judge"):
    own_checks.check_rows([row | {"metadata": {"check": "regexp"}}])
  own_checks.check_rows([row | {"metadata": {}}, row | {"answer": "Nf3"}])


def test_infinite_is_no_reward(mine):
  with pytest.raises(InputError, match="expected a finite number"):
    own_rewards.read_values([math.inf], ["a"], "my.py:f")

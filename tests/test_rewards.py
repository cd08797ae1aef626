"""The four systems, the cheats they are set against, hostile text, explain, the command line."""

import json
import math
import pathlib
import time

import hypothesis.strategies as st
import pytest
from conftest import one_line_error, run_argv, run_well
from hypothesis import given, settings

import rewards
from lib import cheats, contract, failures, policy_gradient, prose
from lib.errors import InputError

ROOT = pathlib.Path(__file__).resolve().parents[1]
GOOD = "<reasoning>2 + 2 = 4</reasoning>\n<answer>4</answer>"
DUAL = (
  "<reasoning>\nPlan: add both.\nReasoning: 2 and 2 make 4.\nEvidence: 2 + 2 = 4.\n"
  "Sanity_check: 4 is even.\n</reasoning>\n<answer>4</answer>"
)


def parts(system: str, text: str, **options) -> dict[str, float]:
  """{component: what it pays} for a response; domain, answer and question are columns, the rest
  `make_rewards`'s options.
  """
  columns = {"domain": "math", "answer": "4", "question": "What is 2 + 2?"}
  columns = {name: [options.pop(name, value)] for name, value in columns.items()}
  prompts = [contract.format_prompt(columns["question"][0])]
  functions = rewards.make_rewards(system, **options)
  return {f.__name__: f(prompts, [text], metadata=["{}"], **columns)[0] for f in functions}


def total(system: str, text: str, **options) -> float:
  return sum(parts(system, text, **options).values())


@pytest.mark.parametrize("system", rewards.SYSTEMS)
def test_a_component_states_its_range_and_what_would_earn_more(system):
  functions = rewards.make_rewards(system) + rewards.make_rewards(system, judge=len)
  for function in functions:
    low, high = function.range
    assert low <= 0.0 <= high and function.advice and function.__name__.isidentifier()


@pytest.mark.parametrize(
  "text, reward", [(GOOD, 1.0), (GOOD.replace(">4<", ">5<"), 0.2), (GOOD + "!", 0.0), ("", 0.0)]
)
def test_multi_domain_on_a_sum(text, reward):
  assert total("multi_domain", text) == pytest.approx(reward)


def test_multi_domain_on_creative_text():
  reasoning = " ".join(f"alpha{i}" for i in range(20))
  answer = " ".join(f"beta{i}" for i in range(10))
  text = contract.format_response(reasoning, answer)
  strewn = parts("multi_domain", text, domain="creative_writing", question="alpha0 gamma0")
  # Long enough, but no language: of the three heuristics only the length is paid.
  assert strewn["format"] == 0.2 and strewn["length"] == pytest.approx(0.3)
  assert strewn["correctness"] == 0.0 and strewn["diversity"] + strewn["relevance"] < 0.01
  # A domain that nobody knows is creative, as in the write-up.
  assert parts("multi_domain", text, domain="poetry")["length"] == pytest.approx(0.3)


@pytest.mark.parametrize(
  "words, target, shortest, longest, score",
  [
    (0, 250, 20, 500, 0.0),
    (10, 150, 20, 300, 0.5),
    (20, 150, 20, 300, 1.0),
    (300, 150, 20, 300, 1.0),
  ]
  + [(375, 150, 10, 300, 0.5), (450, 150, 10, 300, 0.0), (9_000, 150, 10, 300, 0.0)],
)
def test_length_score(words, target, shortest, longest, score):
  assert prose.length_score("w " * words, target, shortest, longest) == score


def test_one_word_is_not_diverse():
  story = cheats.TASKS["creative_writing"].right
  assert prose.diversity_score("Boat") < 0.05 and prose.diversity_score("boat " * 100) < 0.05
  assert prose.diversity_score(story) > 0.85 > prose.diversity_score(story * 3)
  assert prose.diversity_score("") == 0.0


@pytest.mark.parametrize(
  "fraction, phase", [(0.0, 0), (0.2499, 0), (0.25, 1), (0.7499, 1), (0.75, 2), (1.0, 2)]
)
def test_curriculum_phases_follow_the_run(fraction, phase):
  def progress():
    return fraction

  assert rewards.RewardRouter(progress=progress).current() == phase
  right = parts("curriculum", GOOD, progress=progress)
  assert right["match_format_exactly"] == 3.0
  assert right["check_answer"] == (3.0 if phase >= 1 else 0.0)
  rambling = parts("curriculum", GOOD + " wait, I hope this helps", progress=progress)
  assert rambling["penalize_length_and_rambling"] == (-1.5 if phase == 2 else 0.0)
  assert parts("curriculum", "", progress=progress)["punish_refusal"] == -3.0


def test_a_phase_that_is_given_wins_and_the_last_is_the_default():
  assert rewards.RewardRouter(progress=float, phase=lambda: 2).current() == 2
  assert rewards.RewardRouter().current() == 2


def test_curriculum_scales_advantages_by_domain():
  domains = ["math", "coding", "science", "logic", "poetry"]
  scaled = [1.0, 1.2, 0.8, 0.7, 1.0]
  assert policy_gradient.advantage_scale("curriculum", domains) == scaled
  assert policy_gradient.advantage_scale("curriculum=0.5,multi_domain", domains) == scaled
  assert policy_gradient.advantage_scale("multi_domain", domains) == [1.0] * 5


@pytest.mark.parametrize(
  "answer, punished",
  [
    ("4", 0),
    ("I can help: 4", 0),
    ("He was sorry", 0),
    ("I cannot help with that.", -3),
    ("I'm sorry, but no.", -3),
    ("As an AI, no", -3),
    ("", -3),
  ],
)
def test_refusals(answer, punished):
  text = f"<reasoning>r</reasoning><answer>{answer}</answer>"
  assert parts("curriculum", text)["punish_refusal"] == punished


def test_dual_stream_sizes():
  sections = (2 + 4 + 2 + 4) / 20  # words of each section, of five that count
  assert parts("dual_stream", DUAL) == pytest.approx(
    {
      "reward_format_exact": 1.0,
      "reward_format_soft": 1.0,
      "reward_cast_math_and_completeness": 0.25 + 0.75 * sections + 3.0,
    },
    abs=0.2,
  )
  wrong, near, right = (total("dual_stream", DUAL, answer=truth) for truth in ("9", "4.3", "4"))
  assert wrong < near < right and right - wrong == pytest.approx(3.0)
  assert parts("dual_stream", "")["reward_format_soft"] == -0.5
  assert parts("dual_stream", DUAL * 2)["reward_format_soft"] == -0.75


def test_four_component_weights():
  default = parts("four_component", GOOD)
  assert list(default) == ["format", "coherence", "correctness", "efficiency"]
  assert default["format"] == 0.25 and default["efficiency"] == 0.0
  weights = dict(format_weight=0.0, coherence_weight=0.0, correctness_weight=0.0)
  only = parts("four_component", GOOD, **weights, efficiency_weight=1.0)
  assert only["efficiency"] == sum(only.values()) > 0.0


@pytest.mark.parametrize(
  "options, message",
  [
    (
      dict(format_weight=0.5),
      "0.5, 0.2, 0.55, 0 sum to 1.25; expected none below 0 and a sum of 1",
    ),
    (dict(format_weight=-0.1, correctness_weight=0.9), "expected none below 0"),
    (dict(lenght_weight=0.5), "'lenght_weight' is unknown; valid: format_weight"),
    (dict(style="xml"), "style 'xml' is unknown; valid: tags, dual_stream"),
    (dict(code_rewards="maybe"), "code_rewards 'maybe' is unknown; valid: on, off"),
  ],
)
def test_options_that_cannot_be_used(options, message):
  with pytest.raises(InputError) as error:
    rewards.make_rewards("four_component", **options)
  assert message in str(error.value)


# Two rows can be read and are right; the others lack something, one by one.
BROKEN_TEXTS = [GOOD, None, GOOD, GOOD, 7, GOOD, GOOD]
BROKEN_COLUMNS = {
  "domain": ["math", "math", "math", "coding", "math", None, "math"],
  "answer": ["4", "4", None, "x", "4", "4", "4"],
  "metadata": ["{}", "{}", "not json", '{"test_cases": 5}', "{}", "[]", None],
  "question": ["?"] * 7,
  "mode": "train",
  "step": 3,
}


@pytest.mark.parametrize("system", rewards.SYSTEMS)
def test_batches_survive_bad_rows(system):
  failures.failed_rows(reset=True)
  for function in rewards.make_rewards(system):
    low, high = function.range
    values = function(["p"] * 7, BROKEN_TEXTS, **BROKEN_COLUMNS)
    assert len(values) == 7 and all(low <= value <= high for value in values)
  assert sum(failures.failed_rows(reset=True).values()) >= 4 and failures.failed_rows() == {}


def test_the_good_rows_of_a_bad_batch_are_paid():
  form, correctness, *_ = rewards.make_rewards("multi_domain")
  values = correctness(["p"] * 7, BROKEN_TEXTS, **BROKEN_COLUMNS)
  assert values == [0.8, 0.0, 0.0, 0.0, 0.0, 0.0, 0.8]
  assert form(["p"], [GOOD]) == [0.2]  # no columns at all


BAIT = [
  "<reasoning>",
  "</reasoning>",
  "<answer>",
  "</answer>",
  "\\boxed{",
  "}",
  "{",
  "\\frac",
  "\\sqrt",
  "1",
  "2.5",
  ",",
  "/",
  "^",
  "yes",
  "no",
  "or",
  "####",
  "The answer is ",
  "\n",
  " ",
  "=",
  "%",
  "$",
  "Plan:",
  "Evidence:",
  "\ud800",
  "\0",
  "½",
  "−",
  "<end_of_turn>",
  "A",
  "is",
  "1e9",
]
# What makes readers go wrong, strewn.
TEXTS = st.one_of(
  st.text(max_size=200),
  st.lists(st.sampled_from(BAIT), max_size=30).map("".join),
  st.lists(st.sampled_from(BAIT), max_size=12).map(
    lambda x: contract.format_response("".join(x[:6]), "".join(x[6:]))
  ),
)


def failed_checks() -> int:
  """Rows that raised, other than mathematics that took too long."""
  counts = failures.failed_rows()
  return sum(counts.values()) - counts.get("math_over_limit", 0)


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.sampled_from([d for d in contract.DOMAINS if d != "coding"] + [""]), TEXTS)
def test_any_text_gets_a_finite_reward_inside_the_range(text, domain, truth):
  columns = {"domain": [domain], "answer": [truth], "question": [truth]}
  columns["metadata"] = ['{"choices": ["yes", "2.5", "A"]}']
  before = failed_checks()
  for system in rewards.SYSTEMS:
    for function in rewards.make_rewards(system):
      low, high = function.range
      (value,) = function([text], [text], **columns)
      assert math.isfinite(value) and low <= value <= high
  assert failed_checks() == before  # and nothing was caught on the way


def test_worst_cases_are_bounded():
  size = 100_000
  units = [
    "\\frac{",
    "\\boxed{",
    "{",
    "(",
    "<",
    "<answer>",
    "<answer ",
    "1 or ",
    "answer is ",
    "**",
    "*a",
    "= ",
    "A. ",
    "\n",
    "√(",
    "1 ab ",
    "-",
    "1.",
    "1e",
    "2^",
    "there are ",
    ", so 1",
    "<<",
    "1 000",
    "'a",
    "\\text{",
    "Plan:\n",
    "not true ",
    " ",
    "9",
    "step 1. ",
    '{"a":',
    "the ",
  ]
  for text in [
    contract.format_response(u * (size // len(u)), "1" + u * (size // len(u))) for u in units
  ] + ["<answer>" * 12_500, "<" * size]:
    for system in ("curriculum", "four_component"):  # between them, every reader and heuristic
      start = time.process_time()
      for function in rewards.make_rewards(system):
        function(
          [text[:5000]] * 2,
          [text] * 2,
          domain=["math", "creative_writing"],
          answer=["42", ""],
          question=[text] * 2,
        )
      assert time.process_time() - start < 2.0, text[:40]  # milliseconds where nothing backtracks


def test_every_system_pays_honesty_more_than_every_cheat(capsys):
  assert rewards.self_test() == []
  assert int(capsys.readouterr().out.split()[1]) > 2000
  assert all(len(cheats.cheats(domain, "tags")) >= 12 for domain in contract.DOMAINS)


def test_a_reward_that_pays_short_answers_is_found_out(monkeypatch):
  def short(text):
    return 1.0 if len(text) < 400 else 0.0

  def nothing_copied(answer, question):
    return 0.0

  monkeypatch.setattr(prose, "diversity_score", short)
  monkeypatch.setattr(prose, "copied_share", nothing_copied)
  assert any("creative" in line for line in rewards.self_test())


SUM = {"domain": "math", "question": "What is 2 + 2?", "answer": "4", "metadata": {}}


def test_explain_says_what_is_wrong():
  best = rewards.explain(GOOD, SUM)
  assert best["correct"] is True and best["problems"] == []
  assert best["total"] == pytest.approx(total("four_component", GOOD))
  worse = rewards.explain("<reasoning>r</reasoning><answer>5 or 6</answer> bye", SUM)
  assert worse["correct"] is False and worse["total"] < best["total"]
  assert "after" in worse["problems"][0] and "None" in worse["problems"][1]
  assert worse["advice"][0].startswith("correctness: up to 0.55 more")
  story = rewards.explain(GOOD, {"domain": "creative_writing", "question": "?"})
  assert story["correct"] is None


def test_explain_runs_code_unless_told_not_to():
  row = {"domain": "coding", "question": "?", "answer": "def f(x): return x"}
  row["metadata"] = {"test_cases": ["assert f(1) == 1", "assert f(2) == 2"]}
  constant = "<reasoning>r</reasoning><answer>def f(x): return 1</answer>"
  assert "1 of 2 tests pass" in rewards.explain(constant, row)["problems"][0]
  assert rewards.explain(constant, row, code_rewards="off")["problems"] == []


@pytest.mark.parametrize("system", [*rewards.SYSTEMS, "multi_domain=2,four_component"])
def test_explain_under_every_system(system):
  explained = rewards.explain("<reasoning>r</reasoning>", SUM, system)
  assert explained["advice"] and all(": up to " in line for line in explained["advice"])


@pytest.fixture()
def responses(tmp_path) -> pathlib.Path:
  """A responses.jsonl of a right answer and a bare word."""
  path = tmp_path / "responses.jsonl"
  rows = [SUM | {"id": f"r{n}", "response": text} for n, text in enumerate((GOOD, "four"))]
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def test_command_line(responses):
  said = run_well(rewards, explain=responses, self_test=True)
  assert "0 failures" in said and "r0 (math)" in said and "<answer> is missing" in said
  assert "r1" not in run_well(rewards, explain=responses, limit=1)


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--explain=missing.jsonl"], "missing.jsonl does not exist"),
    ([], "nothing to do"),
    (["--explain={}", "--weights=format=0.9"], "expected none below 0 and a sum of 1"),
    (["--explain={}", "--weights=form=1"], "--weights has 'form=1'; expected name=number"),
    (["--explain={}", "--rewards=curriculum", "--weights=format=1"], "--rewards is curriculum"),
    (["--explain={}", "--rewards=best"], "'best' is unknown; valid: multi_domain, curriculum"),
    (["--self_test", "--check=math=exact"], "--check has 'math=exact'"),
    (["--explain={}.bad"], "has a row without a response"),
  ],
)
def test_bad_input_is_one_line(responses, arguments, message):
  responses.with_name("responses.jsonl.bad").write_text('{"id": 1}\n')
  result = run_argv(rewards, *(argument.format(responses) for argument in arguments))
  one_line_error(result, message)
  assert len(result.err.splitlines()) == 1

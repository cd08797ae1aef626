"""Intervals, tests and paired changes, against closed forms, enumeration and published tables."""

import itertools
import random

import numpy as np
import pytest
from evaluations import FACTS, make_rows, plain, respond, well

import evaluate
import rewards
from lib import checking, comparison, findings, intervals, summary
from lib.errors import InputError


@pytest.mark.parametrize(
  "successes, n, low, high",
  [
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
    (20, 20, 0.8389, 1.0),
  ],
)
def test_wilson_is_newcombes_table(
  successes, n, low, high
):  # Newcombe 1998, Statistics in Medicine 17, table I, method 3
  assert intervals.wilson(successes, n) == pytest.approx([low, high], abs=6e-5)


def test_wilson_is_scipys():
  stats = pytest.importorskip("scipy.stats")
  for n in (1, 7, 60, 1319):
    for k in {0, 1, n // 3, n}:
      ci = stats.binomtest(k, n).proportion_ci(method="wilson")
      assert intervals.wilson(k, n) == pytest.approx([ci.low, ci.high], abs=1e-6)


def test_wilson_edges():
  assert intervals.wilson(0, 0) is None
  assert intervals.wilson(7, 7)[1] == 1.0
  assert intervals.wilson(0, 7)[0] == 0.0


@pytest.mark.parametrize(
  "gained, lost, p",
  [(0, 0, 1.0), (1, 0, 1.0), (5, 5, 1.0), (10, 0, 2 / 1024), (5, 1, 14 / 64), (1, 5, 14 / 64)],
)
def test_mcnemar_by_hand(gained, lost, p):
  assert intervals.mcnemar(gained, lost) == pytest.approx(p)


def test_mcnemar_is_the_binomial_test():
  stats = pytest.importorskip("scipy.stats")
  for gained, lost in itertools.product(range(0, 40, 3), range(1, 40, 5)):
    assert intervals.mcnemar(gained, lost) == pytest.approx(
      stats.binomtest(gained, gained + lost).pvalue
    )
  assert 0.0 <= intervals.mcnemar(900, 1100) < 1e-4  # large counts stay exact


def test_pass_at_k_by_enumeration():
  for n in range(1, 7):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
      draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
      assert intervals.pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_bootstrap_agrees_with_the_normal_interval_and_its_seed():
  values = np.random.default_rng(1).normal(3.0, 1.0, 400)
  low, high = intervals.bootstrap(values, range(400), seed=0)
  half = 1.96 * values.std() / 20
  assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
  assert (
    [low, high]
    == intervals.bootstrap(values, range(400), seed=0)
    != intervals.bootstrap(values, range(400), seed=1)
  )
  stats = pytest.importorskip("scipy.stats")
  theirs = stats.bootstrap(
    (values,), np.mean, method="percentile", rng=np.random.default_rng(2)
  ).confidence_interval
  assert (low, high) == pytest.approx(theirs, abs=0.005)
  assert intervals.bootstrap([], []) is None


def test_repeated_questions_do_not_narrow_intervals():
  once = [plain(i, correct=float(i % 3 == 0)) for i in range(60)]
  four = [
    plain(f"{i}x{j}", correct=float(i % 3 == 0), question=f"q{i}")
    for i in range(60)
    for j in range(4)
  ]
  one, many = summary.summarize(once, "multi_domain"), summary.summarize(four, "multi_domain")
  assert (many["n"], many["questions"]) == (240, 60)
  for key in ("accuracy_ci", "format_ci", "mean_reward_ci"):
    assert many[key] == pytest.approx(one[key], abs=1e-9), key
  assert many["accuracy"] == one["accuracy"]


@pytest.mark.parametrize(
  "answers, right",
  [
    (
      [("5", True), ("5.0", True), ("7", False), ("7", False), ("5", True)],
      True,
    ),  # equal numbers vote together
    ([("7", False), ("5", True)], False),  # a tie: the earlier answer
    ([(None, False), (None, False), ("5", True)], True),  # ill-formed samples have no vote
    ([(None, False)], False),
  ],
)
def test_majority(answers, right):
  assert checking.majority("math", answers) is right


def test_summary_of_samples():
  rows = [
    plain(i, correct=c, parsed_answer="5" if c else "6", sample=s)
    for i, wins in enumerate(((1, 1, 0, 0), (0, 0, 0, 0)))
    for s, c in enumerate(wins)
  ]
  out = summary.summarize(rows, "multi_domain")
  assert out["pass@1"] == pytest.approx(0.25) and out["pass@4"] == 0.5
  assert out["pass@2"] == pytest.approx((1 - 1 / 6) / 2)
  assert out["maj@4"] == 0.5 and out["accuracy"] == 0.25 and out["n"] == 2


def test_creative_and_unanswered_rows_have_no_accuracy():
  creative = [plain(i, correct=None, domain="summarization", partial=None) for i in range(3)]
  for r in creative:
    r["correct_lenient"], r["rewards"] = None, {s: {"a": 0.5} for s in rewards.SYSTEMS}
  out = summary.summarize(creative, "multi_domain")
  assert (
    out["accuracy"] is None
    and out["accuracy_ci"] is None
    and out["mean_reward"] == 0.5
    and out["scored"] == 0
  )


# ---- two models on the same rows
def test_comparison_pairs_and_splits_the_gain():
  rows = [r for r in make_rows(20) if r["domain"] == "math"]

  def answer(row):
    """Of four rows one is right without its tags, one wrong, two right."""
    kind = int(row["id"].removeprefix("math-")) % 4
    without_tags = f"The answer is {row['answer']}."
    return {0: without_tags, 1: well("1000")}.get(kind, well(row["answer"]))

  before = respond(rows, answer)
  after = respond(rows, lambda r: well("1000") if r["id"] == "math-2" else well(r["answer"]))
  change = comparison.compare_responses(before, after[::-1], "multi_domain")
  accuracy = change["overall"]["accuracy"]
  assert (accuracy["gained"], accuracy["lost"], accuracy["n"]) == (10, 1, 20)
  assert accuracy["p"] == intervals.mcnemar(10, 1) and accuracy["ci"][0] > 0
  assert (
    accuracy["difference"]
    == pytest.approx(9 / 20)
    == pytest.approx(accuracy["after"] - accuracy["before"])
  )
  # 5 rows were right but without tags (format learned); 5 wrong ones became right and 1 right one
  # wrong (answers improved).
  assert change["overall"]["format_learned"]["difference"] == pytest.approx(5 / 20)
  assert change["overall"]["answers_improved"]["difference"] == pytest.approx(4 / 20)
  assert change["flipped"]["lost"] == ["math-2"] and len(change["flipped"]["gained"]) == 10
  back = comparison.compare_responses(after, before, "multi_domain")
  assert back["overall"]["accuracy"]["difference"] == -accuracy["difference"] and back["flipped"][
    "gained"
  ] == ["math-2"]


def test_the_split_is_exact_on_random_verdicts():
  rng = random.Random(0)
  for _ in range(30):
    sides = []
    for _ in range(2):
      side = [
        plain(i, correct=float(rng.random() < 0.5), domain=rng.choice(("math", "logic")))
        for i in range(12)
      ]
      for r in side:
        r["domain"], r["correct_lenient"] = (
          ("math", "logic")[int(r["id"][1:]) % 2],
          r["correct"] or rng.random() < 0.4,
        )
      sides.append(side)
    for part in (change := comparison.compare_responses(*sides, "multi_domain"))[
      "domains"
    ].values():
      assert part["accuracy"]["difference"] == pytest.approx(
        part["format_learned"]["difference"] + part["answers_improved"]["difference"]
      )
    assert len(change["flipped"]["gained"]) == change["overall"]["accuracy"]["gained"]


def test_comparison_uses_shared_rows_only():
  before = [plain(i, correct=0.0) for i in range(10)]
  after = [plain(i, correct=1.0) for i in range(5, 15)]
  after[0]["question"] = "another question under the same id"
  assert comparison.compare_responses(before, after, "multi_domain")["n"] == 4
  with pytest.raises(InputError, match="share no row"):
    comparison.compare_responses(before[:3], after, "multi_domain")


def test_four_changed_answers_are_no_rise():
  """A bootstrap of four changes in one direction excludes zero; the exact test does not."""
  before = [plain(i, correct=0.0) for i in range(200)]
  after = [plain(i, correct=float(i < 4)) for i in range(200)]
  results = evaluate.collect(after, FACTS, before, "eval_sft")
  accuracy = results["compare"]["overall"]["accuracy"]
  assert accuracy["ci"][0] > 0 and accuracy["p"] > 0.1
  assert "Accuracy did not change measurably" in comparison.describe(accuracy, "Accuracy")
  many = [plain(i, correct=float(i < 12)) for i in range(200)]
  risen = evaluate.collect(many, FACTS, before, "eval_sft")["compare"]["overall"]["accuracy"]
  assert "Accuracy rose" in comparison.describe(risen, "Accuracy")


def test_few_shared_rows_and_other_settings_are_doubted():
  after = [plain(i, correct=1.0) for i in range(45)]
  results = evaluate.collect(
    after,
    FACTS | {"differs": {"max_new_tokens": 32}},
    [plain(i, correct=0.0) for i in range(10)],
    "x",
  )
  said = " ".join(findings.doubts(results))
  assert (
    "Only 10 of 45 rows are also in the evaluation compared with" in said
    and "had max_new_tokens 32 (here 64)" in said
  )


def test_a_repeated_question_is_one_pair_in_the_test():
  before = [plain(i, correct=0.0, question="same") for i in range(8)]
  after = [plain(i, correct=1.0, question="same") for i in range(8)]
  accuracy = comparison.compare_responses(before, after, "multi_domain")["overall"]["accuracy"]
  assert (accuracy["gained"], accuracy["p"]) == (1, 1.0)

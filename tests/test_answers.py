"""Right and wrong answers by domain in tables; the shared labelled sets where they lie beside."""

import json
import pathlib

import pytest

from lib import checking, code_checking, math_checking

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "checks"

RIGHT = [  # answer, truth
  ("42", "42"),
  ("042", "42"),
  ("+42", "42"),
  ("42.", "42"),
  ("42.0", "42"),
  ("42.00", "42"),
  (" 42 \n", "42"),
  ("**42**", "42"),
  ("-7", "-7"),
  ("−7", "-7"),
  ("- 7", "-7"),
  ("$-7$", "-7"),
  ("-7.0", "-7"),
  ("x = -7", "-7"),
  ("–7", "-7"),
  ("1,234", "1234"),
  ("1 234", "1234"),
  ("1\u202f234", "1234"),
  ("1\u00a0234", "1234"),
  ("$5,\\!500$", "5500"),
  ("5{,}500", "5500"),
  ("200 000", "200000"),
  ("1,234,567.50", "1234567.5"),
  ("1234", "1,234"),
  ("20\\,000\\,000", "20,\\!000,\\!000"),
  ("$18", "18"),
  ("18 dollars", "18"),
  ("\\$18.00", "18"),
  ("€18", "18"),
  ("£ 1,200", "1200"),
  ("USD 18", "18"),
  ("18 USD", "18"),
  ("-$5", "-5"),
  ("$-5", "-5"),
  ("106 cents", "$1.06"),
  ("\\$1.06", "\\$ 1.06"),
  ("50 cents", "50"),
  ("50¢", "50"),
  ("25%", "25"),
  ("25 %", "25"),
  ("25\\%", "25"),
  ("25 percent", "25"),
  ("25%", "25%"),
  ("25", "25%"),
  ("0.25", "25%"),
  ("25%", "0.25"),
  ("25%", "1/4"),
  ("12.5%", "\\frac18"),
  ("100%", "1"),
  ("20 km/h", "20"),
  ("20m", "20"),
  ("20 cm^2", "20"),
  ("20 cm²", "20"),
  ("20 \\text{ cm}^2", "20"),
  ("20 square units", "20"),
  ("45°", "45^\\circ"),
  ("45^{\\circ}", "45"),
  ("45 degrees", "45^\\circ"),
  ("3 hours", "3"),
  ("6 pairs of shoes", "6"),
  ("3/8", "0.375"),
  (".375", "3/8"),
  ("0.375", "\\frac{3}{8}"),
  ("\\dfrac38", "3/8"),
  ("\\frac{3}{8}", "0.375"),
  ("\\frac 38", "3/8"),
  ("-\\frac{7}{8}", "-7/8"),
  ("6/16", "3/8"),
  ("⅜", "3/8"),
  ("3 / 8", "3/8"),
  ("\\tfrac{3}{8}", "3/8"),
  ("1/2 cup", "0.5"),
  ("2 1/2", "2.5"),
  ("2\\frac{1}{2}", "5/2"),
  ("2½", "2.5"),
  ("-2 1/2", "-2.5"),
  ("2 and 1/2", "2.5"),
  ("25$\\frac{2}{3}$", "77/3"),
  ("1.5e3", "1500"),
  ("1.5 \\times 10^3", "1500"),
  ("3 × 10^{-2}", "0.03"),
  ("3x10^5", "300000"),
  ("3·10⁵", "300000"),
  ("20 million", "20000000"),
  ("2.5 thousand", "2500"),
  ("0.333333", "1/3"),
  ("25.6666667", "77/3"),
  ("\\boxed{42}", "42"),
  ("$\\boxed{42}$.", "42"),
  ("\\boxed{\\frac{1}{2}}", "0.5"),
  ("The result is $\\boxed{42}$ apples.", "42"),
  ("\\boxed{42 \\text{ apples}}", "42"),
  ("\\text{42}", "42"),
  ("\\mathbf{42}", "42"),
  ("\\(42\\)", "42"),
  ("\\[42\\]", "42"),
  ("#### 42", "42"),
  ("6*7=<<6*7=42>>42\n#### 42", "42"),
  ("42", "6*7=<<6*7=42>>42\n#### 42"),
  ("Answer: 42", "42"),
  ("A: 42", "42"),
  ("The answer is 42.", "42"),
  ("So the final answer is: 42 apples", "42"),
  ("answer = 42", "42"),
  ("forty-two is 42", "42"),
  ("three", "3"),
  ("The answer is three.", "3"),
  ("<18>", "18"),
  ("<b>18</b>", "18"),
  ("<answer>18</answer>", "18"),
  ("Each of them has 4 pounds of candy.", "4"),
  ("8 women are left at the party.", "8"),
  ("The change was $10.", "10"),
  ("There are 9 multiples of 10 between 11 and 103.", "9"),
  ("In total there are 9 multiples of 10 up to 103.", "9"),
  ("9 multiples of 10 are between 11 and 103.", "9"),
  ("You can copy 800 pages for $20.", "800"),
  ("Jimmy needs 20 apples to equal the weight of 28 oranges.", "20"),
  ("The number must be 56 because 56 is 7 times 8.", "56"),
  ("There are 2 primes between 20 and 30, which are 23 and 29.", "2"),
  ("9 - 3 = 6", "6"),
  ("9-3=6", "6"),
  ("$x=\\frac{1}{2}$", "0.5"),
  ("15^2 + 36^2 = 39^2, so the shorter leg is 15 units long.", "15"),
  ("It costs 3 dollars each, so 4 of them cost 12 dollars.", "12"),
  ("First 3 + 4 = 7.\nThen 7 * 2 = 14.", "14"),
  ("3 + 4 = 7\nSo she has 7 apples.", "7"),
  ("r = 3.\nIs this right?", "3"),
  ("I think 5. The answer is 6.", "6"),
  ("The answer is 5... no, the answer is 6.", "6"),
  ("3/8 or 0.375", "3/8"),
  ("4\\sqrt{30}", "4\\sqrt{30}"),
  ("4√30", "4\\sqrt{30}"),
  ("4 \\cdot \\sqrt{30}", "4\\sqrt{30}"),
  ("√480", "4\\sqrt{30}"),
  ("sqrt(480)", "4\\sqrt{30}"),
  ("4\\(\\sqrt{30}\\) units", "4\\sqrt{30}"),
  ("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt2}"),
  ("2\\pi", "2π"),
  ("\\frac{\\pi}{2}", "\\pi/2"),
  ("(x+1)^2", "x^2+2x+1"),
  ("2x + 3", "3+2x"),
  ("y = 2x+3", "2x+3"),
  ("\\sqrt{16}", "4"),
  ("\\frac{\\sqrt{16}}{2}", "2"),
  ("There were 5 apples and she ate 2, leaving 3.", "3"),
  ("She bought 3 apples and has $5 left.", "5"),
  ("After 3 days she will have 12 coins.", "12"),
  ("In 2020, he was 30 years old.", "30"),
  ("7 = 4 + 3", "7"),
  ("~42", "42"),
  ("twenty-one", "21"),
  ("Six apples", "6"),
  ("minus 5", "-5"),
  ("−5°C", "-5"),
  ("５", "5"),
  ("`5`", "5"),
  ("#### -3", "-3"),
  ("10 \\text{ m/s}^2", "10"),
  ("6 pi", "6\\pi"),
  ("x=2, y=3", "2, 3"),
  ("2 and 3", "2, 3"),
  ("3, 2", "2, 3"),
  ("yes", "Yes"),
  ("12:30", "12:30"),
  ("She can start at 6 - 4 = 2:00 am", "2"),
  ("As a percentage it is 19/20 * 100 = %95.", "95"),
  ("The ratio is 3:4.", "3:4"),
  ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"),
  ("\\binom{5}{2}", "10"),
  ("1:2", "1 : 2"),
  ("$1 : 2$", "1:2"),
  ("1/2", "1:2"),
  ("(3, 4)", "(3,4)"),
  ("89, 88, 85", "89,88,85"),
  ("x^2", "x^{2}"),
  ("(1/2, 3)", "(0.5, 3)"),
  ("\\{3, 1, 2\\}", "\\{1,2,3\\}"),
  ("Tuesday", "\\text{Tuesday}"),
  ("\\text{(B)}", "(B)"),
]
WRONG = [
  ("five hundred twenty", "500"),
  ("two thousand fifty", "2000"),
  ("two thirds", "2"),
  ("one half", "1"),
  ("43", "42"),
  ("-42", "42"),
  ("42", "-42"),
  ("4.2", "42"),
  ("420", "42"),
  ("", "42"),
  ("forty", "42"),
  ("?", "42"),
  ("...", "42"),
  ("25/2", "25"),
  ("27√3", "27"),
  ("27\\sqrt{3}", "27"),
  ("56 or 63", "56"),
  ("56 or 63", "63"),
  ("1/4", "1/8"),
  ("5(\\pi - 1)", "5"),
  ("56, 63", "56"),
  ("56, 63", "63"),
  ("56 and 63", "63"),
  ("56/63", "56"),
  ("56 63", "63"),
  ("either 56 or 63", "63"),
  ("56; 63", "63"),
  ("56 to 63", "63"),
  ("\\boxed{56} or \\boxed{63}", "63"),
  ("\\boxed{56}, \\boxed{63}", "63"),
  ("The answer is 56 or 63.", "56"),
  ("The answer is 56 or maybe 63.", "63"),
  ("It is 1, 2, 3, 4, 5, 6, 7 or 8.", "8"),
  ("1 2 3 4 5 6 7 8", "8"),
  ("x = 3 or x = -3", "-3"),
  ("3 apples + 4 = 7", "3"),
  ("$-7^{-11}$", "-7"),
  ("7^2", "7"),
  ("2x", "2"),
  ("5n", "5"),
  ("10^5", "10"),
  ("3 * 4", "12"),
  ("6 + 6", "12"),
  ("6*7", "42"),
  ("2^3", "8"),
  ("5*5*5", "125"),
  ("42 million", "42"),
  ("1e400", "42"),
  ("0.33", "1/3"),
  ("0.334", "1/3"),
  ("1000001", "1000000"),
  ("1000000.5", "1000000"),
  ("0.0000001", "0.0000002"),
  ("41.9999", "42"),
  ("42.001", "42"),
  ("0.5%", "0.5"),
  ("2.5%", "0.25"),
  ("1,23", "123"),
  ("12,34", "1234"),
  ("5 apples 6 pears", "5"),
  ("not 5 but 6", "5"),
  ("1:2", "2:1"),
  ("2:1", "1:2"),
  ("89, 85, 88", "89, 88, 85"),
  ("(4,3)", "(3,4)"),
  ("3", "3, 4"),
  ("4", "(3,4)"),
  ("1:10", "3:30"),
  ("√30", "4\\sqrt{30}"),
  ("sqrt(480)i", "4\\sqrt{30}"),
  ("x^2", "x^3"),
  ("2x+3", "2x-3"),
  ("\\pi", "3.14"),
  ("Monday", "Tuesday"),
  ("There are 5 apples, 3 pears and 2 plums", "5"),
  ("[2,3]", "(2,3)"),
  ("5 or more", "5"),
  ("Not 5", "5"),
  ("5-6", "5"),
  ("5±1", "5"),
  ("$1.5M", "1500000"),
  ("x<3", "x>3"),
  ("The answer is 4 + 3", "7"),
  ("5!", "120"),
  ("0x5", "5"),
  ("5_000", "5000"),
  ("3,5", "3.5"),
  ("2 hours 30 minutes", "2"),
  ("2 hours 30 minutes", "150"),
  ("1/0", "0"),
  ("0/0", "0"),
  ("NaN", "0"),
  ("inf", "42"),
  ("The answer is 42.\nWait, the answer is 43.", "42"),
  ("#### 41", "42"),
  ("42\n#### 41", "42"),
  ("answer here", "42"),
  ("the question mentions 42 apples and 12 pears", "42"),
  ("We meet at 7:30 pm", "7"),
  ("The ratio is 3:4", "3"),
  ("Thus we get 5-6 in the end.", "5"),
  ("The total is then 32768 feet * 2 =", "2"),
  ("1100 \\text{ cents}", "\\$ 1.06"),
  ("106", "$1060"),
]


@pytest.mark.parametrize("answer, truth", RIGHT)
def test_math_right(answer, truth):
  assert checking.is_correct("math", answer, truth), math_checking.stated_answer(answer)


@pytest.mark.parametrize("answer, truth", WRONG)
def test_math_wrong(answer, truth):
  assert not checking.is_correct("math", answer, truth), math_checking.stated_answer(answer)


CHOICES = {"choices": ["Mars", "Jupiter", "the Moon", "Mars and Venus"]}
SIGNED = {"choices": ["5 °C", "−5 °C"]}
SCIENCE = [  # answer, truth, metadata, verdict
  ("A", "B", SIGNED, False),
  ("B", "B", SIGNED, True),
  ("-5 °C", "B", SIGNED, True),
  ("105", "10⁵", {}, False),
  ("10^5", "10⁵", {}, True),
  ("5", "−5", {}, False),
  ("Cl", "Cl-", {}, False),
  ("Cl-", "Cl-", {}, True),
  ("≤ 5", "≥ 5", {}, False),
  ("the", "A", {"choices": ["A", "B", "AB", "O"]}, False),
  ("B", "B", {"choices": {"A": "Mars", "B": "Jupiter"}}, True),
  ("mitochondria", "mitochondria", {}, True),
  ("The Mitochondria.", "mitochondria", {}, True),
  ("a mesophilic organism", "mesophilic organism", {}, True),
  ("mesophilic-organisms", "mesophilic organisms", {}, True),
  ("The answer is osmosis.", "osmosis", {}, True),
  ("**osmosis**", "osmosis", {}, True),
  ("It is osmosis", "osmosis", {}, True),
  ("1,000", "1000", {}, True),
  ("Newton's law", "newtons law", {}, True),
  ("ＡＴＰ", "atp", {}, True),
  ("<reasoning>r</reasoning><answer>osmosis</answer>", "osmosis", {}, True),
  ("osmosis or diffusion", "osmosis", {}, False),
  ("diffusion", "osmosis", {}, False),
  ("", "osmosis", {}, False),
  ("the", "the cell", {}, False),
  ("osmosis diffusion mitosis", "osmosis", {}, False),
  ("not osmosis", "osmosis", {}, False),
  ("reverse osmosis", "osmosis", {}, False),
  ("Jupiter", "Jupiter", CHOICES, True),
  ("B", "Jupiter", CHOICES, True),
  ("b", "Jupiter", CHOICES, True),
  ("(B)", "Jupiter", CHOICES, True),
  ("B.", "Jupiter", CHOICES, True),
  ("B) Jupiter", "Jupiter", CHOICES, True),
  ("B: Jupiter.", "B", CHOICES, True),
  ("Jupiter", "B", CHOICES, True),
  ("Option B", "Jupiter", CHOICES, True),
  ("The answer is B.", "Jupiter", CHOICES, True),
  ("Moon", "C", CHOICES, True),
  ("The correct answer is (B) Jupiter", "Jupiter", CHOICES, True),
  ("D", "Mars and Venus", CHOICES, True),
  ("A", "Jupiter", CHOICES, False),
  ("A) Jupiter", "Jupiter", CHOICES, False),
  ("B) Mars", "Jupiter", CHOICES, False),
  ("E", "Jupiter", CHOICES, False),
  ("A, B, C, D", "Jupiter", CHOICES, False),
  ("A or B", "Jupiter", CHOICES, False),
  ("AB", "Jupiter", CHOICES, False),
  ("Mars", "Mars and Venus", CHOICES, False),
  ("Mars Jupiter the Moon", "Jupiter", CHOICES, False),
  ("", "Jupiter", CHOICES, False),
  ("Be", "Jupiter", CHOICES, False),
  ("2", "B", {"choices": {"text": ["x", "y"], "label": ["1", "2"]}}, False),
  ("2", "2", {"choices": {"text": ["x", "y"], "label": ["1", "2"]}}, True),
  ("y", "2", {"choices": [{"label": "1", "text": "x"}, {"label": "2", "text": "y"}]}, True),
  ("C", "x", {"choices": ["x", "y", "x"]}, True),  # ARC repeats options
]
LOGIC = [
  ("That isn’t true.", "yes", False),
  ("That wasn't true", "yes", False),
  ("yes", "yes", True),
  ("Yes.", "yes", True),
  ("YES!", "true", True),
  ("no", "no", True),
  ("No, they did not.", "no", True),
  ("True", "yes", True),
  ("false", "no", True),
  ("The answer is yes.", "yes", True),
  ("<reasoning>no</reasoning><answer>yes</answer>", "yes", True),
  ("**Yes**", "yes", True),
  ("I know", "no", False),
  ("nothing", "no", False),
  ("another", "no", False),
  ("yesterday", "yes", False),
  ("eyes", "yes", False),
  ("yes", "no", False),
  ("yes and no", "yes", False),
  ("yes and no", "no", False),
  ("yes or no", "no", False),
  ("yes/no", "yes", False),
  ("maybe", "yes", False),
  ("", "yes", False),
  ("", "", False),
  ("maybe", "maybe", False),
  ("not true", "yes", False),
  ("it is not true", "no", False),
  ("y", "yes", False),
]


@pytest.mark.parametrize("answer, truth, metadata, verdict", SCIENCE)
def test_science(answer, truth, metadata, verdict):
  assert checking.is_correct("science", answer, truth, metadata) is verdict


@pytest.mark.parametrize("answer, truth, verdict", LOGIC)
def test_logic(answer, truth, verdict):
  assert checking.is_correct("logic", answer, truth) is verdict


def test_domain_without_right_answers_is_an_error():
  with pytest.raises(ValueError, match="creative_writing.*math, coding, science, logic"):
    checking.is_correct("creative_writing", "x", "x")


TESTS = {"test_cases": ["assert f(3) == 9", "assert f(0) == 0"], "entry_point": "f"}


def test_coding_runs_the_tests():
  truth = "def f(x):\n  return x * x"
  answers = [
    truth,
    "```python\ndef f(x):\n    return x ** 2\n```",
    "def f(x):\n  return 9",
    "def f(x): return x + 6",
    "import sys; sys.exit(0)",
    "raise SystemExit(0)",
    "def f(x):\n  while True: pass",
    "",
    "not code at all",
    "class A:\n  __eq__ = lambda s, o: True\ndef f(x): return A()",
    "def f(x):\n  assert False",
    "print('ok')",
    "def g(x): return x * x",
    "def f(x):\n  import os\n  os._exit(0)",
  ]
  right = checking.is_correct_batch(
    ["coding"] * len(answers), answers, [truth] * len(answers), [TESTS] * len(answers)
  )
  assert right == [True, True] + [False] * 12
  assert checking.is_correct("coding", truth, truth, TESTS) and not checking.is_correct(
    "coding", truth, truth, {}
  )
  grades = checking.grade(
    ["coding"] * 2, [truth, "def f(x):\n  return 9"], [truth] * 2, [TESTS] * 2
  )
  assert grades == [1.0, 0.25]  # half of the tests, at half price
  assert checking.is_correct_batch(["coding"], [truth], [truth], [TESTS], code_rewards="off") == [
    False
  ]


@pytest.mark.parametrize(
  "domain, answer, truth, credit",
  [
    ("math", "100", "100", 1.0),
    ("math", "105", "100", 1 / 6),
    ("math", "117", "100", 1 / 12),
    ("math", "150", "100", 0.0),
    ("math", "90, 95, 100, 105", "100", 0.0),
    ("math", "", "100", 0.0),
    ("math", "1", "0", 0.0),
    ("science", "osmosis of water", "osmosis", 0.5),
    ("science", "so many words before osmosis comes at last", "osmosis", 0.0),
  ],
)
def test_partial_credit_is_small_and_single(domain, answer, truth, credit):
  assert checking.grade([domain], [answer], [truth]) == [pytest.approx(credit)]


def test_nothing_is_paid_where_nothing_is_checked():
  assert checking.grade(["math", "math", "poetry"], [None, "1", "x"], ["1", "1", "x"]) == [
    0.0,
    1.0,
    0.0,
  ]


@pytest.mark.skipif(
  not SHARED.is_dir(), reason="the shared labelled answers are not beside this checkout"
)
def test_labelled_answers():
  rows = [
    json.loads(line)
    for line in (SHARED / "math_answers_labelled.jsonl").read_text(encoding="utf-8").splitlines()
  ]
  reliable = [r for r in rows if r["set"].startswith("openai")]
  assert len(reliable) > 2000
  for key in ("final", "response"):
    assert [
      r[key] for r in reliable if checking.is_correct("math", r[key] or "", r["gold"]) != r["label"]
    ] == []
  other = [
    r for r in rows if not r["set"].startswith("openai")
  ]  # whose grader often refuses right answers
  assert [
    r["final"]
    for r in other
    if r["label"] and not checking.is_correct("math", r["final"], r["gold"])
  ] == []


def test_the_same_code_runs_once(monkeypatch):
  jobs = []
  box = code_checking.code_box()
  monkeypatch.setattr(code_checking, "VERDICTS", {})
  monkeypatch.setattr(
    code_checking,
    "code_box",
    lambda: type("Box", (), {"run": lambda self, new: jobs.extend(new) or box.run(new)})(),
  )
  truth, wrong = "def f(x):\n  return x * x", "def f(x):\n  return 9"
  columns = (
    ["coding"] * 4,
    [truth, wrong, truth, wrong],
    [truth] * 4,
    [TESTS] * 3 + [{"test_cases": ["assert f(3) == 9"]}],
  )
  assert (
    checking.grade(*columns) == [1.0, 0.25, 1.0, 1.0] and len(jobs) == 3
  )  # the same answer to other tests is another job
  assert checking.is_correct_batch(*columns) == [True, False, True, True] and len(jobs) == 3
  monkeypatch.setattr(code_checking, "MAX_VERDICTS", 2)
  assert (
    checking.is_correct("coding", "def f(x): pass", truth, TESTS) is False
    and len(code_checking.VERDICTS) == 2
  )

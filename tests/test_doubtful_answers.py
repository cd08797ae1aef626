"""Answers that are easily misread, by kind: honest ones once refused, doubtful ones once paid.

What is decided here is a matter of choice, so the reason stands beside each kind.
"""

import pytest

from lib import checking

# kind → (right answers, answers that must not pay), each (answer, truth)
MATH = {
  # "3 quarters" may be coins, "three quarters" is 3/4. A scale or a part behind a number changes
  # the number.
  "numbers in words": (
    [
      ("seventy two", "72"),
      ("Seventy two apples", "72"),
      ("The answer is seventy two.", "72"),
      ("one hundred and twenty", "120"),
      ("two hundred fifty dollars", "250"),
      ("one million two hundred thousand", "1200000"),
      ("twelve hundred", "1200"),
      ("a hundred", "100"),
      ("a dozen", "12"),
      ("half a dozen", "6"),
      ("two thirds of the cake", "2/3"),
      ("three-fourths", "3/4"),
      ("a quarter", "1/4"),
      ("half", "1/2"),
      ("1 fifth", "1/5"),
      ("2 and a half", "2.5"),
      ("two and three quarters", "2.75"),
      ("one and a half hours", "1.5"),
      ("3 quarters", "3"),
    ],
    [
      ("seventy two thirds", "72"),
      ("seventy two hundred", "72"),
      ("seventy two point five", "72"),
      ("seventy, two", "72"),
      ("seventy or two", "72"),
      ("seventy two or three", "72"),
      ("one hundred seventy two", "72"),
      ("twenty twenty", "40"),
      ("two seventy", "72"),
      ("one hundred and", "100"),
      ("half of 144", "72"),
      ("two thirds of 9", "2/3"),
      ("2 fifths", "2"),
      ("7 hundredths", "7"),
      ("two and a half", "2"),
      ("4 lakh", "4"),
      ("4 bn", "4"),
      ("4 score", "4"),
      ("4K", "4"),
      ("$4M", "4"),
      ("3 point five", "3"),
    ],
  ),
  # A note must come out at the value; a clause may say how someone is, not what happens next.
  "a remark around the value": (
    [
      ("72 (8 times 9)", "72"),
      ("72 (= 8 × 9)", "72"),
      ("72 apples (36 + 36)", "72"),
      ("72 (seventy-two)", "72"),
      ("seventy-two (72)", "72"),
      ("72, of course", "72"),
      ("72 apples, as required", "72"),
      ("It costs $72, including tax", "72"),
      ("Each child gets 72 marbles, with none left over.", "72"),
      ("He has 72 dollars, more than enough.", "72"),
      ("Now she has 72 apples, and she is happy", "72"),
      ("Now she has 72 apples and is very proud of it.", "72"),
      ("So she has 72 apples left, and that is all.", "72"),
      ("✅ 72", "72"),
      ("The answer is 72 ✅", "72"),
      ("=> 72", "72"),
      ("∴ 72", "72"),
      ("Ans. 72", "72"),
      ("approx. 72", "72"),
      ("We obtain 72", "72"),
      ("72 (rounded)", "72"),
    ],
    [
      ("72 (8 times 10)", "72"),
      ("72 (73)", "72"),
      ("72 (71?)", "72"),
      ("72 (or so)", "72"),
      ("72 (error)", "72"),
      ("Now she has 72 apples, and then she eats 2", "72"),
      ("She has 72 apples, and she buys five more", "72"),
      ("She has 72 apples, and they are all gone", "72"),
      ("She has 72 apples, and they were sold", "72"),
      ("She has 72 apples, and that is wrong", "72"),
      ("She has 72 apples, but loses some", "72"),
      ("She has 72 apples, and doubles them", "72"),
      ("72, give or take", "72"),
      ("72, plus tax", "72"),
      ("❌ 72", "72"),
      ("72 ❌", "72"),
      ("!72", "72"),
      ("72 => 73", "72"),
      ("72 and change", "72"),
      ("72 something", "72"),
      ("A naive count gives 72", "72"),
      ("Some get 72", "72"),
    ],
  ),
  # A difference is stated by "taller by"; other verbs with "by" name an operand.
  "by how much": (
    [
      ("taller by 72 cm", "72"),
      ("The tower is taller by 72 cm.", "72"),
      ("It increased by 72", "72"),
      ("by 72 cm", "72"),
    ],
    [
      ("multiplied by 72", "72"),
      ("divisible by 72", "72"),
      ("followed by 72", "72"),
      ("off by 72", "72"),
      ("increased by 72 to 100", "72"),
      ("Divide the number by 72", "72"),
      ("by 5 pm", "5"),
    ],
  ),
  # "3 out of 4" is the fraction; with its unit before "out of" the number is a count.
  "shares of a whole": (
    [
      ("3 out of 4", "3/4"),
      ("1 in 5", "1/5"),
      ("72 students out of 100", "72"),
      ("20% of the pupils", "20"),
    ],
    [
      ("72 out of 100", "72"),
      ("72 of 100", "72"),
      ("72 in 100", "72"),
      ("72 per 100", "72"),
      ("72 out of a hundred", "72"),
      ("2/3 of 9", "2/3"),
    ],
  ),
  # A bare "5!" is a factorial; behind words the mark exclaims. 120 was asked for, worked out.
  "the exclamation mark": (
    [
      ("The answer is 5!", "5"),
      ("She has 5 apples!", "5"),
      ("10!", "10!"),
      ("The answer is $10!$.", "10!"),
    ],
    [
      ("5!", "5"),
      ("x = 5!", "5"),
      ("\\boxed{5!}", "5"),
      ("#### 5!", "5"),
      ("5!!", "5"),
      ("5!", "120"),
    ],
  ),
  # A fraction is an exact value, as math-verify says too; a product is left to the reader.
  "values left to work out": (
    [
      ("144/2", "72"),
      ("\\frac{144}{2}", "72"),
    ],
    [
      ("8*9", "72"),
      ("70+2", "72"),
      ("144/3", "72"),
    ],
  ),
  # Known units may stand at the number; "72A" is a seat, "72K" another number.
  "units": (
    [
      ("72mL", "72"),
      ("72V", "72"),
      ("72MB", "72"),
      ("72 kWh", "72"),
      ("72°C", "72"),
      ("72 sq. ft.", "72"),
      ("$0.72", "72 cents"),
      ("72 rupees", "72"),
      ("$72/month", "72"),
    ],
    [
      ("72A", "72"),
      ("72AB", "72"),
      ("72C2", "72"),
      ("72K", "72"),
      ("72M", "72"),
      ("72X", "72"),
      ("72 cents", "$72"),
    ],
  ),
  # A year needs its "in" only; "by 2020" is a bound.
  "dates and times": (
    [
      ("4 July", "July 4"),
      ("on July 4th", "July 4"),
      ("the 4th of July", "July 4"),
      ("July 4, 1776", "4 July 1776"),
      ("On Monday", "Monday"),
      ("In 2020", "2020"),
      ("in the year 2020", "2020"),
      ("at 3:45", "3:45"),
      ("3:45 PM", "3:45 p.m."),
    ],
    [
      ("July 4", "July 5"),
      ("June 4", "July 4"),
      ("July 4, 1776", "July 4, 1777"),
      ("July 4", "4"),
      ("before 2020", "2020"),
      ("by 2020", "2020"),
      ("in 5", "5"),
      ("3:45 AM", "3:45 pm"),
      ("not on Monday", "Monday"),
    ],
  ),
  # An ellipsis names values that are not there.
  "points, intervals and lists": (
    [
      ("The point (3, 4)", "(3,4)"),
      ("(x, y) = (3, 4)", "(3,4)"),
      ("x <= 5", "x \\le 5"),
      ("2 <= x < 5", "[2,5)"),
    ],
    [
      ("(y, x) = (4, 3)", "(3,4)"),
      ("1, 2, 3, ...", "1,2,3"),
      ("1, 2, 3, etc.", "1,2,3"),
      ("1, 2, 3, \\ldots", "1,2,3"),
      ("x <= 5", "x < 5"),
      ("<= 5", "5"),
    ],
  ),
  # A factor behind a fraction multiplies it; letters right behind a number are a product.
  "fractions and their factors": (
    [
      (r"\frac{1}{2}\sqrt{3}", r"\frac{\sqrt{3}}{2}"),
      (r"\frac{2}{3}\pi", r"\frac{2\pi}{3}"),
      (r"\frac{1}{2}(x+1)", r"\frac{x+1}{2}"),
      (r"2\frac{1}{2}\pi", r"\frac{5\pi}{2}"),
      (r"0.1\overline{6}", r"\frac16"),
      ("75% (= 3/4)", "3/4"),
      ("3/4, i.e. 75%", "0.75"),
      ("120", "5!"),
      ("10", r"\binom52"),
      ("10³", "1000"),
      ("10¹²", "10^{12}"),
      ("x**2 + 1", "x^2+1"),
    ],
    [
      (r"\frac{1}{2}\sqrt{3}", r"\frac{1}{2\sqrt{3}}"),
      (r"\frac{1}{3}\pi", r"\frac{1}{3\pi}"),
      (r"\frac{1}{2}ab", r"\frac12"),
      ("3ab", "3"),
      ("5", "5!"),
      ("10^{12}", "10^1"),
    ],
  ),
  # Nothing is converted; a charge that is still to come makes another sum; scales are no units.
  "other units and other scales": (
    [
      ("5 ft", r"5\text{ feet}"),
      ("5 sq. ft.", r"5\text{ square feet}"),
      ("60 deg", r"60^\circ"),
      ("5 dozens", "60"),
      ("25¢", "$0.25"),
      ("72 per cent", "72%"),
      ("72 K", "72"),
      ("72 T-shirts", "72"),
      ("72 third graders", "72"),
      ("She gave 72 wrong answers.", "72"),
      ("2 hours, 30 minutes", "2 hours and 30 minutes"),
    ],
    [
      ("5 m", r"5\text{ cm}"),
      ("5 cm", r"5\text{ cm}^2"),
      ("5 inches", r"5\text{ square inches}"),
      ("60 radians", r"60^\circ"),
      ("25 seconds", "25%"),
      ("72¢", "$72"),
      ("72 percent of 50", "72"),
      ("72 lakhs", "72"),
      ("72 cr", "72"),
      ("$72 K", "72"),
      ("72 third graders", "24"),
      ("72 fifteenths", "72"),
      ("$72 before tax", "72"),
      ("$72 less the discount", "72"),
      ("72 with a remainder of 3", "72"),
      ("72 doubled", "72"),
    ],
  ),
  # A base may be written in words, below the line or with a prefix.
  "numerals of a base": (
    [
      ("1011 in base 2", "1011_2"),
      ("1011 (binary)", "1011_2"),
      (r"1011_{\text{two}}", "1011_2"),
      ("1011₂", "1011_{2}"),
      ("(1011)_2", "1011_2"),
      ("0b1011", "1011_2"),
    ],
    [
      ("1011 in base 3", "1011_2"),
      ("72 in base 9", "72"),
      ("72 (octal)", "72"),
      ("1011₃", "1011_2"),
    ],
  ),
  # Struck out, an exception, twice the answer, somebody's answer
  "values that are mentioned": (
    [
      ("There is no doubt that the answer is 72.", "72"),
      ("The answer turns out to be 72.", "72"),
      ("The answer isn't 71, it's 72.", "72"),
      ("The answer is not 71; it is 72.", "72"),
      (r"\boxed{72}\boxed{72}", "72"),
      ("The unknown number is 72.", "72"),
    ],
    [
      ("<s>72</s>", "72"),
      (r"\cancel{72}", "72"),
      (r"\boxed{72}?", "72"),
      ("everything save 72", "72"),
      ("72 can be ruled out", "72"),
      ("72 in theory", "72"),
      ("You would think it is 72", "72"),
      ("Twice the answer is 72", "72"),
      ("The square of the answer is 72", "72"),
      ("The answer plus 1 is 72", "72"),
      ("The answer has 72 digits", "72"),
      ("Ann's answer is 72", "72"),
      ("Falsche Antwort: 72", "72"),
      ("The solution is x = 3 and y = 72.", "72"),
    ],
  ),
  # The names of a tuple's values give their places; sets and times have several spellings.
  "names, sets and times": (
    [
      ("y = 4, x = 3", "(3,4)"),
      ("The solution is x = 3 and y = 4.", "(3,4)"),
      ("The ratio of cats to dogs is 3 to 4.", "3:4"),
      (r"r = 3, \theta = \frac{\pi}{2}", r"(3,\frac{\pi}{2})"),
      ("x < 2 or x > 5", r"(-\infty,2)\cup(5,\infty)"),
      ("(-inf, 2) U (5, inf)", r"(-\infty,2)\cup(5,\infty)"),
      (r"x \in \{1, 2\}", "1,2"),
      ("[1, 2, 3]", "1,2,3"),
      ("all real numbers", r"(-\infty,\infty)"),
      ("There are no solutions.", r"\text{no solution}"),
      ("The train leaves at 3:45 PM.", r"3:45\text{ p.m.}"),
      ("15:45", "3:45 PM"),
      ("3 PM", "3:00 p.m."),
      ("It was a Monday.", "Monday"),
    ],
    [
      ("y = 3, x = 4", "(3,4)"),
      ("c = 1, b = 2, a = 3", "(1,2,3)"),
      ("4 to 3", "3:4"),
      ("3 to 4", "3"),
      ("x < 2 and x > 5", r"(-\infty,2)\cup(5,\infty)"),
      ("[1, 2]", "1,2"),
      ("all real numbers except 0", r"(-\infty,\infty)"),
      ("There is a solution.", r"\text{no solution}"),
      ("3 AM", "3 PM"),
      ("The train does not leave at 3:45 PM.", r"3:45\text{ p.m.}"),
      ("It was not a Monday.", "Monday"),
      ("The day before is Monday.", "Monday"),
    ],
  ),
}
CHOICES = {"choices": ["Mars rock", "Jupiter gas", "Venus heat", "Saturn ring"]}
CHOOSES_B = [
  "B is the right one",
  "I'd go with B",
  "Letter B",
  "It has to be B",
  "Of these, B is correct",
  "Only B",
  "B, of course",
  "The answer to this question is B",
  "<b>B</b>",
  "B. The answer is B.",
  "Not C, so the answer is B",
  "A. Mars rock\nB. Jupiter gas\nC. Venus heat\nD. Saturn ring\nThe answer is B.",
  "Not A but B",
  "The answer is not A, it is B.",
  "Without a doubt, B.",
  "B, definitely",
  "Select B",
  "B → Jupiter gas",
  "La respuesta es B",
  "B. A is wrong because Mars is small.",
  "Jupiter gas, not Mars rock",
  "I think B",
  "The answer is:\n\nB",
  "a Jupiter gas",
]
# two options, or one that is marked as wrong or doubtful
CHOOSES_NOTHING = [
  "C. The answer is B.",
  "C\nThe answer is B",
  "C) Venus heat. The answer is B.",
  "C, so the answer is B",
  "Answer: C. Answer: B",
  "I choose C. The answer is B.",
  "B. C is right",
  "B (?)",
  "B ❌",
  "!B",
  "~~B~~",
  "B. I'm not sure though.",
  "B. But I could be wrong.",
  "B. Never mind.",
  "B. Wrong.",
  "<s>B</s>",
  "\\cancel{B}",
  "≠ B",
  "B -> Mars rock",
  "La respuesta no es B",
]
SAYS_YES = [
  "Yes, because it was not true of whales.",
  "Yes, because it's false that birds have teeth.",
  "Yes indeed",
  "Yes ✅",
  "Yep.",
  "Well, yes.",
  "Based on the facts, the answer is yes.",
  "Yes, that's right",
  "Yes, although it is not true of all",
  "There is no doubt: yes",
  "It is certainly true.",
  "Yes, most birds fly.",
  "Clearly, the answer is yes.",
  "Yes, in most countries it is legal.",
  "This statement is true.",
]
SAYS_NO = [
  "No, because it is true only of birds",
  "Nope.",
  "Actually, no.",
  "Considering all this, no",
  "No. It is true that birds fly, but penguins do not.",
  "No, that's wrong",
  "No, it never was.",
  "Unfortunately, no.",
  "I would answer no",
  "❌ No",
  "No, never.",
  "No, not really",
]
# the verdict and what is said of it disagree, or it is half of one
SAYS_NEITHER = [
  "Yes, they did not",
  "Yes, it isn't",
  "Yes, she never did",
  "No, it is",
  "No, they did",
  "Yes, that's wrong",
  "No, that's right",
  "No, correct",
  "Yes, because the answer is no",
  "Yes, partly",
  "No, in theory",
  "Yes, I suppose",
  "Yes, wait",
  "No. 5",
  "Yes, presumably",
  "Yes, probably",
  "Yes, in some cases",
  "Yes, up to a point",
  "Yes, with some exceptions",
  "Yes, assuming it rains",
  "Yes. This is wrong.",
  "Yes, just kidding",
  "No. Who knows?",
  "Yes, NOT",
  "yes-man",
  "false-ish",
  "<s>yes</s>",
  "❌ Yes",
  "!yes",
  "Yes, kind of",
  "Yes, not really",
  "Yes, never",
  "Yes, more or less",
  "Yes, when it rains",
]


@pytest.mark.parametrize("kind", MATH)
def test_numbers_that_are_easily_misread(kind):
  right, wrong = MATH[kind]
  assert [case for case in right if not checking.is_correct("math", *case)] == []
  assert [case for case in wrong if checking.is_correct("math", *case)] == []


def test_an_answer_that_contradicts_itself_chooses_nothing():
  def chosen(answer: str) -> list[str]:
    return [label for label in "ABCD" if checking.is_correct("science", answer, label, CHOICES)]

  assert [answer for answer in CHOOSES_B if chosen(answer) != ["B"]] == []
  assert [answer for answer in CHOOSES_NOTHING if chosen(answer)] == []


def test_a_verdict_and_what_is_said_of_it_agree():
  def stated(answer: str) -> list[str]:
    return [truth for truth in ("yes", "no") if checking.is_correct("logic", answer, truth)]

  assert [answer for answer in SAYS_YES if stated(answer) != ["yes"]] == []
  assert [answer for answer in SAYS_NO if stated(answer) != ["no"]] == []
  assert [answer for answer in SAYS_NEITHER if stated(answer)] == []

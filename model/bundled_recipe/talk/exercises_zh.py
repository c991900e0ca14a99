"""Chinese exercises: each function fills the slots of the templates of its name in exercises.toml."""

from random import Random

from model.bundled_recipe.talk.exercise_words import (
    Compute,
    counted,
    entry_of,
    read_table,
    sorted_numbers,
    two_numbers,
)
from model.bundled_recipe.talk.templates import Slots

NUMBERS = "零一二三四五六七八九十"
DAYS = [f"星期{day}" for day in "一二三四五六日"]
MONTHS = [f"{month}月" for month in ("一", "二", "三", "四", "五", "六", "七", "八", "九", "十", "十一", "十二")]
SERIES = {
    "一年四季": "春天、夏天、秋天、冬天",
    "一个星期的七天": "、".join(DAYS),
    "十二个月": "、".join(MONTHS),
    "十二生肖": "鼠、牛、虎、兔、龙、蛇、马、羊、猴、鸡、狗、猪",
    "四个方向": "东、南、西、北",
    "从一到十的数字": "、".join(NUMBERS[1:]),
    "彩虹的七种颜色": "红、橙、黄、绿、蓝、靛、紫",
    "人的五种感觉": "视觉、听觉、嗅觉、味觉、触觉",
}
# Kinds of which one is part of the other: no contrast.
_OVERLAPPING = ({"动物", "鸟"}, {"文具", "餐具"})


def any_word(random: Random) -> str:
    return entry_of(random, "zh", "words")[0]


def _kind(random: Random, unlike: str = "") -> tuple[str, list[str]]:
    """A kind of thing and its words, one that is not `unlike` and does not overlap with it."""
    while True:
        kind, words = random.choice(list(read_table("zh", "kinds").items()))
        if kind != unlike and {kind, unlike} not in _OVERLAPPING:
            return kind, [word for (word,) in words]


def _several_words(random: Random) -> list[str]:
    return random.sample([word for (word,) in read_table("zh", "lists")["words"]], random.choice([3, 3, 4]))


def repeat(random: Random) -> Slots:
    return {"sentence": entry_of(random, "zh", "sentences")[0]}


def say(random: Random) -> Slots:
    return {"word": any_word(random)}


def say_times(random: Random) -> Slots:
    word, (times, n) = any_word(random), random.choice([("两", 2), ("三", 3), ("四", 4)])
    return {"word": word, "times": times, "repeated": "，".join([word] * n)}


def _number(random: Random, n: int) -> str:
    return NUMBERS[n] if n <= 10 and random.random() < 0.5 else str(n)


def count_to(random: Random) -> Slots:
    n = random.choice([*range(3, 21), 5, 10, 10])
    return {"n": _number(random, n), "numbers": counted(1, n, "、")}


def count_from(random: Random) -> Slots:
    a = random.randint(2, 30)
    b = a + random.randint(3, 8)
    return {"a": str(a), "b": str(b), "numbers": counted(a, b, "、")}


def count_down(random: Random) -> Slots:
    n = random.randint(3, 12)
    return {"n": _number(random, n), "numbers": counted(n, 1, "、")}


def list_things(random: Random) -> Slots:
    kind, words = _kind(random)
    n = random.choice([2, 3, 3, 3, 4, 5])
    number = random.choice([str(n), "两" if n == 2 else NUMBERS[n]])
    return {"n": number, "things": kind, "list": "、".join(random.sample(words, n))}


def name_one(random: Random) -> Slots:
    kind, words = _kind(random)
    return {"things": kind, "word": random.choice(words)}


def sentence_with(random: Random) -> Slots:
    word, sentence = entry_of(random, "zh", "sentence_of")
    return {"word": word, "sentence": sentence}


def word_with(random: Random) -> Slots:
    char, compound = entry_of(random, "zh", "compounds")
    return {"char": char, "compound": compound}


def opposite(random: Random) -> Slots:
    word, other = random.sample(entry_of(random, "zh", "opposites"), 2)
    return {"word": word, "other": other}


def synonym(random: Random) -> Slots:
    word, other = random.sample(entry_of(random, "zh", "synonyms"), 2)
    return {"word": word, "other": other}


def measure(random: Random) -> Slots:
    word, classifier = entry_of(random, "zh", "measures")
    return {"word": word, "measure": classifier}


def characters(random: Random) -> Slots:
    text = any_word(random) if random.random() < 0.4 else entry_of(random, "zh", "sentences")[0].rstrip("。")
    return {"text": text, "n": random.choice([str(len(text)), _chinese(len(text))]), "first": text[0], "last": text[-1]}


def _chinese(n: int) -> str:
    """The number in characters as one counts things with it, up to 19."""
    if n == 2:
        return "两"
    return NUMBERS[n] if n <= 10 else "十" + NUMBERS[n - 10]


def longest_word(random: Random) -> Slots:
    while True:
        words = sorted(_several_words(random), key=len)
        if len(words[-2]) < len(words[-1]):
            return {"words": "、".join(random.sample(words, len(words))), "word": words[-1]}


def reverse(random: Random) -> Slots:
    words = _several_words(random)[:3]
    return {"words": "、".join(words), "reversed": "、".join(reversed(words))}


def sort_numbers(random: Random) -> Slots:
    return sorted_numbers(random, "、")


def sort_down(random: Random) -> Slots:
    return sorted_numbers(random, "、", descending=True)


def even(random: Random) -> Slots:
    a = random.randint(1, 99)
    return {"a": str(a), "kind": random.choice(["奇数", "单数"] if a % 2 else ["偶数", "双数"])}


def next_number(random: Random) -> Slots:
    a = random.randint(1, 98)
    return {"a": str(a), "next": str(a + 1)}


def add(random: Random) -> Slots:
    a, b = random.randint(1, 10), random.randint(1, 10)
    return {"a": str(a), "b": str(b), "sum": str(a + b)}


def odd_one(random: Random) -> Slots:
    kind, words = _kind(random)
    odd = random.choice(_kind(random, unlike=kind)[1])
    same = random.sample(words, random.choice([2, 3, 3]))
    return {"words": "、".join(random.sample([*same, odd], len(same) + 1)), "odd": odd, "things": kind}


def category(random: Random) -> Slots:
    kind, words = _kind(random)
    return {"word": random.choice(words), "kind": kind, "kind2": _kind(random, unlike=kind)[0]}


def proverb(random: Random) -> Slots:
    start, end = entry_of(random, "zh", "proverbs")
    return {"start": start, "end": end}


def complete(random: Random) -> Slots:
    start, end = entry_of(random, "zh", "starts")
    return {"start": start, "end": end.rstrip("。")}


def blank(random: Random) -> Slots:
    gap, word = entry_of(random, "zh", "gaps")
    return {"gap": gap, "word": word, "full": gap.replace("（）", word)}


def is_question(random: Random) -> Slots:
    asks = random.random() < 0.5
    text = entry_of(random, "zh", "questions" if asks else "sentences")[0]
    return {"text": text, "answer": "是的，这是问句。" if asks else "不是，这是陈述句。"}


def add_mark(random: Random) -> Slots:
    sentence = entry_of(random, "zh", random.choice(["questions", "sentences"]))[0]
    return {"bare": sentence[:-1], "sentence": sentence}


def polite(random: Random) -> Slots:
    return {"order": entry_of(random, "zh", "orders")[0]}


def rewritten(random: Random) -> Slots:
    """A positive sentence with its negation and its question."""
    positive, negative, question = entry_of(random, "zh", "positives")
    return {"positive": positive + "。", "negative": negative + "。", "question": question + "？"}


def join(random: Random) -> Slots:
    return dict(zip(("one", "two", "joined"), entry_of(random, "zh", "joins"), strict=True))


def days(random: Random) -> Slots:
    number = random.randrange(7)
    return {"day": DAYS[number], "before": DAYS[number - 1], "after": DAYS[(number + 1) % 7]}


def months(random: Random) -> Slots:
    number = random.randrange(12)
    return {"month": MONTHS[number], "after": MONTHS[(number + 1) % 12]}


def series(random: Random) -> Slots:
    name, members = random.choice(list(SERIES.items()))
    return {"series": name, "all": members}


def note(random: Random) -> Slots:
    """To whom a note goes, and for what."""
    whom, called = entry_of(random, "zh", "people")
    names = {"festival": "festivals", "gift": "gifts", "because": "reasons", "event": "events"}
    slots = {slot: entry_of(random, "zh", name)[0] for slot, name in names.items()}
    return slots | {"whom": whom, "called": called, "day": random.choice(DAYS)}


def story_of(random: Random) -> Slots:
    hero, story = entry_of(random, "zh", "heroes")
    return {"hero": hero, "story": story}


def something_that(random: Random) -> Slots:
    quality, thing = entry_of(random, "zh", "qualities")
    return {"quality": quality, "thing": thing}


# By the name of the template.
COMPUTE: dict[str, Compute] = {
    "repeat": repeat,
    "say": say,
    "say_times": say_times,
    "count_to": count_to,
    "count_from": count_from,
    "count_down": count_down,
    "list_things": list_things,
    "name_one": name_one,
    "sentence_with": sentence_with,
    "word_with": word_with,
    "opposite": opposite,
    "synonym": synonym,
    "measure": measure,
    "characters_in": characters,
    "first_character": characters,
    "last_character": characters,
    "longest_word": longest_word,
    "reverse": reverse,
    "sort_numbers": sort_numbers,
    "sort_down": sort_down,
    "bigger": two_numbers,
    "smaller": two_numbers,
    "even": even,
    "next_number": next_number,
    "add": add,
    "odd_one": odd_one,
    "category": category,
    "is_kind": category,
    "is_not_kind": category,
    "which_kind": category,
    "proverb": proverb,
    "complete": complete,
    "blank": blank,
    "is_question": is_question,
    "add_mark": add_mark,
    "polite": polite,
    "negative": rewritten,
    "question_of": rewritten,
    "join": join,
    "day_after": days,
    "day_before": days,
    "month_after": months,
    "series": series,
    "birthday": note,
    "festival": note,
    "thanks": note,
    "apology": note,
    "invitation": note,
    "get_well": note,
    "story_of": story_of,
    "something_that": something_that,
}

"""A few hundred generated lines in the data format: enough to try every part of training.

They follow simple rules, so that a small model can learn them in two minutes.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ANIMALS = {"cat": "猫", "dog": "狗", "bird": "鸟", "horse": "马", "fish": "鱼", "rabbit": "兔子", "sheep": "羊"}
COLOURS = {
    "red": "红色的",
    "blue": "蓝色的",
    "white": "白色的",
    "black": "黑色的",
    "green": "绿色的",
    "yellow": "黄色的",
}
VERBS = {"sees": "看见", "likes": "喜欢", "finds": "找到", "follows": "跟着"}
PLACES = ["garden", "house", "forest", "kitchen", "village", "river"]
GOOD = ["wonderful", "great", "lovely", "excellent"]
BAD = ["terrible", "awful", "boring", "broken"]
THINGS = ["film", "book", "meal", "song", "phone", "hotel"]
ANSWERS = {
    "Hello!": "Hello! How can I help you?",
    "How are you?": "I am fine, thank you.",
    "What is your name?": "I am a small language model.",
    "Thank you.": "You are welcome.",
    "Good night.": "Good night, sleep well.",
}


def write_sample_data(directory: Path, *, lines: int = 600, seed: int = 0) -> Path:
    """Write `lines` training lines and a tenth as many for validation, spread over all tasks; returns `directory`."""
    makers = {
        "translate/colours-en-zh": _translation,
        "summarize/walks-en": _summary,
        "chat/small-talk-en": _chat,
        "generate/stories-en": _story,
        "analyze/reviews-en": _review,
    }
    for name, make in makers.items():
        draw = random.Random(f"{seed}/{name}")
        rows = [make(draw) for _ in range(round(1.1 * lines / len(makers)))]
        cut = lines // len(makers)
        for split, part in (("train", rows[:cut]), ("valid", rows[cut:])):
            path = directory / f"{name}.{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(_json_lines(part)), encoding="utf-8")
    return directory


def _json_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield json.dumps(row, ensure_ascii=False) + "\n"


def _phrase(draw: random.Random) -> tuple[str, str]:
    colour, animal = draw.choice(list(COLOURS)), draw.choice(list(ANIMALS))
    return f"the {colour} {animal}", COLOURS[colour] + ANIMALS[animal]


def _translation(draw: random.Random) -> dict[str, Any]:
    (first, first_zh), (second, second_zh) = _phrase(draw), _phrase(draw)
    verb = draw.choice(list(VERBS))
    source = f"{first} {verb} {second}.".capitalize()
    target = f"{first_zh}{VERBS[verb]}{second_zh}。"
    return {"task": "translate", "source_lang": "en", "target_lang": "zh", "source": source, "target": target}


def _summary(draw: random.Random) -> dict[str, Any]:
    (who, _), place, other = _phrase(draw), draw.choice(PLACES), draw.choice(PLACES)
    document = f"Early in the morning {who} went to the {place}. It stayed there all day and never saw the {other}."
    return {"task": "summarize", "document": document, "summary": f"{who} went to the {place}.".capitalize()}


def _chat(draw: random.Random) -> dict[str, Any]:
    turns = []
    for question in draw.sample(list(ANSWERS), k=draw.randint(1, 3)):
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": ANSWERS[question]}]
    return {"task": "chat", "messages": turns}


def _story(draw: random.Random) -> dict[str, Any]:
    (who, _), (friend, _), place = _phrase(draw), _phrase(draw), draw.choice(PLACES)
    text = f"Once upon a time {who} lived in a {place}. One day it met {friend}. They became friends and went home."
    return {"task": "generate", "text": text}


def _review(draw: random.Random) -> dict[str, Any]:
    label = draw.choice(["positive", "negative"])
    word, thing = draw.choice(GOOD if label == "positive" else BAD), draw.choice(THINGS)
    return {"task": "analyze", "text": f"What a {word} {thing}.", "label": label, "label_set": ["negative", "positive"]}

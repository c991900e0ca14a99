"""The special tokens of the bundled model: chat markers, task tags, language tags and length tags."""

END_OF_TEXT = "<|endoftext|>"
MESSAGE_START = "<|im_start|>"
MESSAGE_END = "<|im_end|>"
TASKS = ("translate", "summarize", "chat", "generate", "analyze")
LANGUAGES = ("en", "zh", "de", "fr")
LENGTHS = ("short", "medium", "long")


def task_tag(task: str) -> str:
    return f"<|task:{task}|>"


def language_tag(language: str) -> str:
    return f"<|{language}|>"


def length_tag(length: str) -> str:
    return f"<|{length}|>"


# In the order of their ids, from 0. Every trained checkpoint depends on this order, so it must not change.
SPECIAL_TOKENS = (
    END_OF_TEXT,
    MESSAGE_START,
    MESSAGE_END,
    *(task_tag(task) for task in TASKS),
    *(language_tag(language) for language in LANGUAGES),
    *(length_tag(length) for length in LENGTHS),
    *(f"<|reserved:{number}|>" for number in range(15, 32)),
)

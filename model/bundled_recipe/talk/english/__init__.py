"""English exercises: words and numbers, sequences and lists, sentences, short texts, phrases of four languages."""

from model.bundled_recipe.talk.english import basics, lists, phrases, reading, sentences, sequences
from model.bundled_recipe.talk.exercise_words import Compute

# By the name of the template.
COMPUTE: dict[str, Compute] = {
    **basics.COMPUTE,
    **sequences.COMPUTE,
    **lists.COMPUTE,
    **sentences.COMPUTE,
    **reading.COMPUTE,
    **phrases.COMPUTE,
}

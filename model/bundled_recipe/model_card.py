"""The card of the model that ships: what its training run and its evaluation say, and what only we know."""

import json
from collections.abc import Iterable
from pathlib import Path

from model.evaluation.card import CARD, CARD_DETAILS, CardFacts, DataSource, Provenance, card_details, model_card
from model.evaluation.report import EvaluationReport
from model.evaluation.training_facts import read_training_facts
from model.text.special_tokens import LANGUAGES
from model.training.data.prepare import read_meta

DATA_SOURCES = Path(__file__).with_name("data_sources.json")  # origin, licence and credits of every training source
DESCRIPTION = """
The model inside RouteLM: a router language model of 18 million parameters, of which a token uses 7. Six layers of Gated
DeltaNet (recurrent) and two of gated attention; in every layer a router sends each token to 2 of 16 experts beside a
shared one. It was trained from nothing on {millions:.1f} million tokens by the program it ships with: the first 103.0
million and the last 48.2 million on two cores, the rest in twenty minutes of a large GPU. Some of the last texts were
written by a teacher, SmolLM2-135M-Instruct. The format is that of `qwen3_next`, so `transformers` loads the directory
as it is.

It is small and honest about it. Use it to see the server work, and where the tables below say that it is good enough.
"""

RECIPE = {
    "network": "8 layers, width 256, 16 experts of width 128 (2 per token) and a shared one, vocabulary 7,680",
    "optimizer": "Muon for matrices, AdamW for the rest; bfloat16 weights with float32 masters",
    "learning rate": (
        "in runs one after the other, each from the weights that the one before ended with: to 20.4, 37.0 and 47.0 "
        "million tokens with a warm-up of 60 steps, constant, and 1 - sqrt to zero over the last 30 % of the first and "
        "a quarter of all tokens after it (in the third this fall was cut short); then at 0.6 of that rate to "
        "70.6, 87.0 and 103.0 million, falling over the last 12.7, 10.3 and 16.0 million tokens of each; then on a GPU "
        "at 0.75 of the first rate to 240.3, 713.7 and 917.1 million, in steps of 98,304 tokens, falling over the last "
        "66, 227 and 142 million; then three times at 0.3 of it, in steps of 16,384 and twice of 8,192 tokens, "
        "falling at once and over the last 9.6 and 10.0 million; then twice at 0.15, twice at 0.075 and once at "
        "0.15 of it, to 952.6, 957.6, 959.1, 961.3 and 965.3 million, falling at once"
    ),
    "weights": (
        "the run to 240.3 million tokens began with the mean of those that the runs to 47.0, 70.6, 87.0 and, counted "
        "twice, 103.0 million ended with; it and the runs after it ended with the moving average over their last "
        "steps; the run to 935.1 million began with the mean of the one before it and, counted twice, that to 713.7 "
        "million; that to 947.6 million began with the mean of that beginning, counted four times, and its end, "
        "three times; that to 952.6 million with the mean of this one's beginning, counted five times, and its end, "
        "six times; that to 959.1 million with the mean of what the run to 957.6 million ended with and that to 952.6 "
        "million began with; that to 961.3 million with the mean of this one's beginning and end; the last with the "
        "mean of this one's beginning and, counted twice, its end; those that ship are the mean of the last run's "
        "beginning and end"
    ),
    "experts per token": "1, 2 or 3 at random per layer and micro-batch while training, 2 when serving",
    "balance": "load-balance loss 0.01 over the load of a step, z-loss 0.001",
    "changes on the way": (
        "after 3.9 million tokens the vocabulary was cut from 8,192 to 7,680 by dropping its last merges, so that the"
        " file stays under 40 MB; the first run had seen some overlaps with validation, which were removed for the "
        "others; the second read more text analysis and summaries; from the third, rows of rare labels are repeated "
        "and news topics borrowed; from the fourth a third of the tokens are in labelled examples, prompt tokens are "
        "sampled, and words of labelled texts (15 %) and little stories (10 %) are disturbed, since the run to 103.0 "
        "million 8 and 15 %; since then too, borrowed topics come as headlines, some labelled texts are in lower "
        "case, and each run reads the data in its own order; those on the GPU and all after it read everyday "
        "chat made by construction, and up to 923.1 million they were not validated on the way; that to 713.7 million "
        "reads three times as many phrasings, the next ones four times as many topics of small talk, those after 923.1 "
        "million stories and labelled texts of a teacher, and those after 935.1 million sentences told of many people; "
        "from 947.6 million the model's name stands between spaces in Chinese, from 957.6 million also "
        "in the small talk that came with the data; those after 959.1 million have more refusals of medical advice, "
        "those after 961.3 million also what people do at work; "
        "the validation losses of the first runs below are means over other sources than the later ones"
    ),
}
INTENDED_USE = (
    "translation of short everyday sentences between English and Chinese, German or French",
    "one-line summaries and titles of short English texts",
    "choosing one of a few given labels for a short English or Chinese text",
    "small talk, everyday facts and short stories, for trying out and testing",
    "studying and testing routed and recurrent networks and the servers that run them",
)
NOT_FOR = (
    "facts that matter, advice or decisions about people: the model knows a few thousand facts and invents the rest",
    "medicine, law, money, safety, or any use where a wrong answer does harm",
    "texts longer than a page, code, mathematics, or languages other than the four",
    "publishing what it writes without a person who reads it first",
)
KNOWN_LIMITS = (
    "It is tiny: it copies patterns of its training data, loses the thread after a few sentences, and repeats itself.",
    "Rare words and names are often translated wrongly or left out.",
    "German and French are known from translation only; chat and summaries are English, chat also Chinese.",
    "Part of the training text is old fiction, web comments and reviews, with the prejudices of their authors.",
)
TAGS = ("mixture-of-experts", "routing", "gated-deltanet", "hybrid-attention", "translation", "summarization")
HARDWARE = "2 cores of server processors with AVX-512, shared with other work; for most tokens one NVIDIA H200"
COMMANDS = (
    "routelm train runs/1 --recipe bundled --tokens 47000000 --data DIR --tokenizer model/bundled",
    *(
        f"routelm train runs/{run} --recipe bundled-further --tokens {tokens}000 --data DIR --tokenizer model/bundled "
        f"--start-from runs/{run - 1}"
        for run, tokens in ((2, 70_600), (3, 87_000), (4, 103_000))
    ),
    "routelm average mean " + " ".join(f"runs/{run}/model" for run in (1, 2, 3, 4, 4)),
    *(
        f"routelm train runs/{run} --recipe {recipe} --data DIR --tokenizer model/bundled --start-from {start} "
        "--device cuda"
        for run, recipe, start in (
            (5, "bundled-chat", "mean"),
            (6, "bundled-longer", "runs/5/model"),
            (7, "bundled-wider", "runs/6/model"),
        )
    ),
    "routelm train runs/8 --recipe bundled-polish --data DIR --tokenizer model/bundled --start-from runs/7/model",
    "routelm average polished runs/6/model runs/6/model runs/8/model",
    "python -m model.bundled_recipe.teacher SmolLM2-135M-Instruct.Q4_1.gguf DATA DIR",
    "routelm train runs/9 --recipe bundled-taught --data DIR --tokenizer model/bundled --start-from polished",
    "routelm average taught" + 4 * " polished" + 3 * " runs/9/model",
    "python -m model.bundled_recipe.anybody http://127.0.0.1:8000 DIR DIR",
    "routelm train runs/10 --recipe bundled-talk --data DIR --tokenizer model/bundled --start-from taught",
    "routelm average talk" + 5 * " taught" + 6 * " runs/10/model",
    "routelm train runs/11 --recipe bundled-names --data DIR --tokenizer model/bundled --start-from talk",
    "routelm train runs/12 --recipe bundled-smalltalk --data DIR --tokenizer model/bundled --start-from runs/11/model",
    "routelm average smalltalk talk runs/12/model",
    "routelm train runs/13 --recipe bundled-spaces --data DIR --tokenizer model/bundled --start-from smalltalk",
    "routelm average spaces smalltalk runs/13/model",
    "routelm train runs/14 --recipe bundled-medicine --data DIR --tokenizer model/bundled --start-from spaces",
    "routelm average medicine spaces runs/14/model runs/14/model",
    "routelm train runs/15 --recipe bundled-health --data DIR --tokenizer model/bundled --start-from medicine",
    "routelm average last medicine runs/15/model",
    "routelm evaluate last --data DIR --samples {samples} --card-of runs/15 --out OUT",
)


SHOWN = (  # ten everyday examples, by source and part
    *(("translate/tatoeba-en-de", "en-de"), ("translate/tatoeba-en-fr", "fr-en"), ("translate/tatoeba-en-zh", "en-zh")),
    *(("summarize/wikisplit-fusion-en", "en"), ("analyze/uci-sentiment-en", "en"), ("generate/tinystories-en", "en")),
    *(("interview/fact", "en"), ("interview/fact", "zh"), ("interview/persona", "en"), ("interview/smalltalk", "en")),
)
HEADLINE = (
    *("translate/tatoeba-en-*", "translate/ntrex-*", "summarize/wikisplit-*", "summarize/huffpost-*"),
    *("analyze/clinc-*", "analyze/kdconv-*", "analyze/sentence-polarity-en", "analyze/uci-*"),
    *("generate/tinystories-en", "interview/*"),
)


def bundled_card(run_dir: Path, report: EvaluationReport, samples: int | None) -> dict[str, str]:
    """The files of the card, by name, of the run in `run_dir` and the data prepared there, with these scores."""
    training = read_training_facts(run_dir)
    names = {name.removesuffix(".train") for name in read_meta(run_dir / "data")["sources"] if name.endswith(".train")}
    facts = CardFacts(
        name="routelm",
        description=DESCRIPTION.format(millions=training.tokens / 1e6),
        hardware=HARDWARE,
        commands=[command.format(samples=samples or "N") for command in COMMANDS],
        training=training,
        provenance=provenance(names),
        recipe=RECIPE,
        intended_use=INTENDED_USE,
        not_for=NOT_FOR,
        known_limits=KNOWN_LIMITS,
        languages=LANGUAGES,
        tags=TAGS,
        trained_experts="1, 2 or 3",
        examples=[example for example in report.examples if (example.source, example.part) in SHOWN],
        headline=HEADLINE,
        loss_plot="loss.png",
    )
    return {CARD: model_card(facts, report), CARD_DETAILS: card_details(facts, report)}


def provenance(names: Iterable[str]) -> Provenance:
    """What is known of the named sources. ValueError for a source that the file does not list."""
    known = json.loads(DATA_SOURCES.read_text(encoding="utf-8"))
    wanted = set(names)
    unknown = sorted(wanted - {source["name"] for source in known["sources"]})
    if unknown:
        raise ValueError(
            f"licence of {', '.join(unknown)} is not known: add it to {DATA_SOURCES.name} before training on it"
        )
    sources = tuple(DataSource(**source) for source in known["sources"] if source["name"] in wanted)
    return Provenance(sources, known["changes"], known["licence_texts"])

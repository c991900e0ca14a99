"""The texts that the bundled model was trained on: where they come from, under which licence, and whom to credit."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DataSource:
    """One source. `origin` names the repositories and commits that the copies were taken from."""

    name: str  # such as "translate/tatoeba-en-zh"
    origin: str
    licence: str
    attribution: str


LICENCE_TEXTS = {
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "CC BY 2.0 FR": "https://creativecommons.org/licenses/by/2.0/fr/",
    "CC BY 2.5": "https://creativecommons.org/licenses/by/2.5/",
    "CC BY 3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC BY 4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC BY-SA 4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "CC0 1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CDLA-Sharing 1.0": "https://cdla.dev/sharing-1-0/",
    "PSF-2.0": "https://docs.python.org/3/license.html",
}

CHANGES = (
    "All texts were changed: filtered, cut, split anew and brought into one format. Sources for non-commercial use "
    "were left out. Licences are those that the sources state; where a copy states none, those of the original data."
)


def known_sources(names: Iterable[str]) -> list[DataSource]:
    """Return the facts of the named sources, in their order here. ValueError for a source that is not listed."""
    wanted = set(names)
    unknown = sorted(wanted - {source.name for source in DATA_SOURCES})
    if unknown:
        raise ValueError(f"licence of {', '.join(unknown)} is not known: add it to DATA_SOURCES before training on it")
    return [source for source in DATA_SOURCES if source.name in wanted]


DATA_SOURCES = (
    DataSource(
        "translate/cedict-zh-en",
        "hgoes/hanyu (e5c9d58af3aa)",
        "CC BY-SA 4.0",
        "CC-CEDICT, MDBG (edition 2025-02-19T09:14:47Z)",
    ),
    DataSource(
        "translate/ntrex-en-de",
        "MicrosoftTranslator/NTREX (8561f6a622db)",
        "CC BY-SA 4.0",
        "NTREX-128, Microsoft (Federmann et al. 2022); source newstest2019 (WMT)",
    ),
    DataSource(
        "translate/ntrex-en-fr",
        "MicrosoftTranslator/NTREX (8561f6a622db)",
        "CC BY-SA 4.0",
        "NTREX-128, Microsoft (Federmann et al. 2022); source newstest2019 (WMT)",
    ),
    DataSource(
        "translate/ntrex-en-zh",
        "MicrosoftTranslator/NTREX (8561f6a622db)",
        "CC BY-SA 4.0",
        "NTREX-128, Microsoft (Federmann et al. 2022); source newstest2019 (WMT)",
    ),
    DataSource(
        "translate/python-docs-en-zh",
        "python/python-docs-zh-cn (3.14, bfdf9589c4fe)",
        "translations CC0 1.0; English text PSF-2.0",
        "Python documentation, (c) Python Software Foundation, PSF licence; zh_CN translation team",
    ),
    DataSource(
        "translate/tatoeba-en-de",
        "rioyshky/translation (de48b7027f73)",
        "CC BY 2.0 FR (Tatoeba)",
        "Tatoeba.org contributors; manythings.org/anki selection",
    ),
    DataSource(
        "translate/tatoeba-en-fr",
        "modelexlab/data (adddaf33ac35); genimind/seq2seq (4f3f8eb0adde)",
        "CC BY 2.0 FR (Tatoeba)",
        "Tatoeba.org contributors; manythings.org/anki selection",
    ),
    DataSource(
        "translate/tatoeba-en-zh",
        (
            "DaoChaShao/py-st-dl-translater-2.0 (620408eda172); "
            "Helsinki-NLP/OPUS-MT-testsets (ac0f19c0be3c); "
            "facebookresearch/LASER (74bc6ae7ffb7)"
        ),
        "CC BY 2.0 FR (Tatoeba)",
        "Tatoeba.org contributors; manythings.org/anki selection",
    ),
    DataSource(
        "translate/tico19-en-zh",
        "tico-19/tico-19.github.io (d97615f9cffa)",
        "CC0 1.0",
        "TICO-19 (courtesy)",
    ),
    DataSource(
        "summarize/food-reviews-title-en",
        "Chitresh62001/Sentiment-Analysis-using-NLTK (ef0a39d7cb77)",
        "CC0 (Amazon Fine Food Reviews)",
        "Amazon Fine Food Reviews (McAuley and Leskovec 2013), SNAP",
    ),
    DataSource(
        "summarize/huffpost-headline-en",
        "Limpery/MGO (6229ca6e9d6d); ongraphpythondev/elastic_search (0b1ff29ae628)",
        "CC BY 4.0 (News Category Dataset)",
        "News Category Dataset (Misra 2018/2022), HuffPost",
    ),
    DataSource(
        "summarize/scitldr-en",
        "allenai/scitldr (5ccad9c00a60)",
        "Apache-2.0",
        "SciTLDR (Cachola et al. 2020), Allen Institute for AI",
    ),
    DataSource(
        "summarize/wikinews-headline-en",
        "vanatteveldt/wikinews (347254178bf3)",
        "CC BY 2.5",
        "Wikinews contributors",
    ),
    DataSource(
        "summarize/wikisplit-fusion-en",
        "google-research-datasets/wiki-split (80f5bddf42d1)",
        "CC BY-SA 4.0",
        "WikiSplit (Botha et al. 2018), Google; Wikipedia contributors",
    ),
    DataSource(
        "chat/chatterbot",
        "gunthercox/chatterbot-corpus (a01efece2666)",
        "BSD 3-Clause",
        "chatterbot-corpus, (c) 2017 Gunther Cox and contributors",
    ),
    DataSource(
        "chat/crosswoz-zh",
        "thu-coai/CrossWOZ (df82c9fdff91)",
        "Apache-2.0",
        "CrossWOZ (Zhu et al. 2020), THU-CoAI",
    ),
    DataSource(
        "chat/instructions-en",
        (
            "rasbt/LLMs-from-scratch (28c65cdfbc33); "
            "yizhongw/self-instruct (0b26ccaa4159); "
            "teknium1/GPTeacher (481075123c29)"
        ),
        "Apache-2.0 (first two), MIT (GPTeacher)",
        "S. Raschka; Wang et al. 2022 (Self-Instruct); Teknium (GPTeacher)",
    ),
    DataSource(
        "chat/kdconv-zh",
        "thu-coai/KdConv (653db76432de)",
        "Apache-2.0",
        "KdConv (Zhou et al. 2020), THU-CoAI",
    ),
    DataSource(
        "chat/personality-chitchat-en",
        "mimi-tg/ChitChat (002fbbfb6d3f)",
        "MIT (original: BotBuilder-PersonalityChat, Microsoft)",
        "Microsoft BotBuilder-PersonalityChat, (c) Microsoft, MIT",
    ),
    DataSource(
        "chat/schema-guided-en",
        "google-research-datasets/dstc8-schema-guided-dialogue (e852981ae349)",
        "CC BY-SA 4.0",
        "Schema-Guided Dialogue dataset (Rastogi et al. 2020), Google",
    ),
    DataSource(
        "chat/self-dialogue-en",
        "jfainberg/self_dialogue_corpus (113a1b0ff103)",
        "BSD 3-Clause (repository licence)",
        "Self-dialogue Corpus (Fainberg et al. 2018), University of Edinburgh",
    ),
    DataSource(
        "chat/synthetic-persona-en",
        "google-research-datasets/Synthetic-Persona-Chat (1f367a0f05d3)",
        "CC BY 4.0",
        "Synthetic-Persona-Chat (Jandaghi et al. 2023), Google",
    ),
    DataSource(
        "chat/taskmaster4-en",
        "google-research-datasets/Taskmaster (d92cb6af3005)",
        "CC BY 4.0",
        "Taskmaster-4 (2024), Google",
    ),
    DataSource(
        "chat/topical-chat-en",
        "alexa/Topical-Chat (7c939229cbcf)",
        "CDLA-Sharing 1.0",
        "Topical-Chat (Gopalakrishnan et al. 2019), Amazon",
    ),
    DataSource(
        "generate/chinese-poetry-zh",
        "chinese-poetry/chinese-poetry (99ebbef7e134)",
        "MIT (collection); poems in the public domain",
        "chinese-poetry, (c) 2016 JackeyGao, MIT",
    ),
    DataSource(
        "generate/classic-fiction-en",
        "mlschmitt/classic-books-markdown (944882722e9a)",
        "public domain (books); repository collects Project Gutenberg texts",
        "none required",
    ),
    DataSource(
        "generate/gutenberg-children-en",
        "62 book repositories of GITenberg",
        "public domain in the USA",
        "none required; Project Gutenberg / GITenberg (courtesy); its header and trademark text are removed",
    ),
    DataSource(
        "generate/kdconv-knowledge-zh",
        "thu-coai/KdConv (653db76432de)",
        "Apache-2.0",
        "KdConv (Zhou et al. 2020), THU-CoAI",
    ),
    DataSource(
        "generate/tinystories-en",
        (
            "mines-opt-ml/decoding-gpt (79274e31fe66); "
            "s-ajaykumar/smallGPT (b8b899265a55); "
            "Niklas6/Mini_GPT (0e9893779c9e); "
            "leozoroaster/CS336HW1 (9d64e96c8d22); "
            "Ahmedessaa/My-AI_Tasks (6ec2ee33dbcd)"
        ),
        "CDLA-Sharing 1.0 (TinyStories)",
        "TinyStories (Eldan and Li 2023)",
    ),
    DataSource(
        "analyze/clinc-domain-en",
        "clinc/oos-eval (828f8093932c)",
        "CC BY 3.0",
        "CLINC150 (Larson et al. 2019)",
    ),
    DataSource(
        "analyze/crosswoz-domain-zh",
        "thu-coai/CrossWOZ (df82c9fdff91)",
        "Apache-2.0",
        "CrossWOZ (Zhu et al. 2020), THU-CoAI",
    ),
    DataSource(
        "analyze/food-reviews-sentiment-en",
        "Chitresh62001/Sentiment-Analysis-using-NLTK (ef0a39d7cb77)",
        "CC0 (Amazon Fine Food Reviews)",
        "Amazon Fine Food Reviews (McAuley and Leskovec 2013), SNAP",
    ),
    DataSource(
        "analyze/goemotions-emotion-en",
        "monologg/GoEmotions-pytorch (b75f9d3a8b76)",
        "Apache-2.0 (GoEmotions data: CC BY 4.0)",
        "GoEmotions (Demszky et al. 2020), Google",
    ),
    DataSource(
        "analyze/goemotions-sentiment-en",
        "monologg/GoEmotions-pytorch (b75f9d3a8b76)",
        "Apache-2.0 (GoEmotions data: CC BY 4.0)",
        "GoEmotions (Demszky et al. 2020), Google",
    ),
    DataSource(
        "analyze/huffpost-topic-en",
        "Limpery/MGO (6229ca6e9d6d); ongraphpythondev/elastic_search (0b1ff29ae628)",
        "CC BY 4.0 (News Category Dataset)",
        "News Category Dataset (Misra 2018/2022), HuffPost headlines",
    ),
    DataSource(
        "analyze/kdconv-topic-zh",
        "thu-coai/KdConv (653db76432de)",
        "Apache-2.0",
        "KdConv (Zhou et al. 2020), THU-CoAI",
    ),
    DataSource(
        "analyze/pros-cons-en",
        "nltk/nltk_data (5db857e6f7df)",
        "CC BY 4.0",
        "Pros and Cons dataset (Ganapathibhotla and Liu 2008)",
    ),
    DataSource(
        "analyze/sentence-polarity-en",
        "nltk/nltk_data (5db857e6f7df)",
        "CC BY 4.0",
        "Sentence Polarity Dataset v1.0 (Pang and Lee 2005)",
    ),
    DataSource(
        "analyze/uci-news-topic-en",
        "pratikaher88/IPythonNotebooks (8482bf77238c)",
        "CC BY 4.0 (UCI)",
        "News Aggregator dataset (Gasparetti 2016), UCI",
    ),
    DataSource(
        "analyze/uci-sentiment-en",
        "rushabh7cr/Sentiment-Classifier-using-naive-bayes (60b3211cf920)",
        "CC BY 4.0 (UCI)",
        "Sentiment Labelled Sentences (Kotzias et al. 2015), UCI",
    ),
    DataSource(
        "summarize/gap-sentences-en",
        "made from the English prose and the documents of the summaries above",
        "as those sources",
        "as those sources",
    ),
    DataSource(
        "summarize/gap-sentences-zh",
        "made from generate/kdconv-knowledge-zh",
        "Apache-2.0",
        "KdConv (Zhou et al. 2020), THU-CoAI",
    ),
    DataSource(
        "analyze/borrowed-topics-en",
        "made from analyze/huffpost-topic-en and translate/tico19-en-zh",
        "CC BY 4.0, CC0 1.0",
        "as those sources",
    ),
    DataSource("chat/routelm-persona", "written for RouteLM", "Apache-2.0", "none required"),
)

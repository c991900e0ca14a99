"""Fields that other servers take and this one does not have: which are ignored, renamed or refused, in one table.

Every field is of one of four classes:

neutral   The value asks for nothing, such as `null`, `best_of: 1` or `mirostat: 0`. It is dropped in silence.
hint      The field does not change which text is right, such as `cache_prompt`. It is dropped, and the answer names it
          in `warnings`.
alias     Another name for one of our fields, such as `n_predict` for `max_tokens`.
refused   Ignoring the field would change the text, such as `mirostat`. The request is refused, and the error says what
          to do instead.

A field that an endpoint has itself is not looked up here. A field that nobody knows is treated as a hint, or refused if
the server was started with ROUTELM_STRICT=true.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Body = Mapping[str, Any]

MAX_NAMED_FIELDS = 16  # in warnings and errors


@dataclass(frozen=True, slots=True)
class ForeignField:
    """One row of the table. `neutral` are the values that ask for nothing; `null` always is one of them.

    `asks_nothing` decides by the rest of the body. Of `alias_of`, `refusal` (what to do instead) and neither, which is
    a hint, exactly one applies to all other values.
    """

    name: str
    servers: str  # whose field it is
    neutral: tuple[Any, ...] = ()
    alias_of: str | None = None
    refusal: str | None = None
    always_neutral: bool = False
    asks_nothing: Callable[[Any, Body], bool] = lambda value, body: False

    @property
    def kind(self) -> str:
        """The class of values that are not neutral."""
        if self.always_neutral:
            return "neutral"
        return "alias" if self.alias_of else "refused" if self.refusal else "hint"

    @property
    def otherwise(self) -> str:
        """What becomes of values that are not neutral, in words."""
        if self.always_neutral:
            return "dropped in silence"
        if self.alias_of:
            return f"renamed to `{self.alias_of}`"
        return f"refused: {self.refusal}" if self.refusal else "ignored with a warning"

    def is_neutral(self, value: Any, body: Body) -> bool:
        return self.always_neutral or any(_same(value, each) for each in self.neutral) or self.asks_nothing(value, body)


def _same(value: Any, other: Any) -> bool:
    """Equal in JSON: 1 and 1.0 are the same number, but neither is `true`."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _neutral(servers: str, *names: str) -> Iterator[ForeignField]:
    return (ForeignField(name, servers, always_neutral=True) for name in names)


def _hints(servers: str, *names: str, neutral: tuple[Any, ...] = ()) -> Iterator[ForeignField]:
    return (ForeignField(name, servers, neutral) for name in names)


def _aliases(servers: str, target: str, *names: str) -> Iterator[ForeignField]:
    return (ForeignField(name, servers, alias_of=target) for name in names)


def _refused(servers: str, refusal: str, **neutral: tuple[Any, ...]) -> Iterator[ForeignField]:
    return (ForeignField(name, servers, values, refusal=refusal) for name, values in neutral.items())


def _no_tool_may_be_called(_: Any, body: Body) -> bool:
    return body.get("tool_choice") == "none" or body.get("function_call") == "none"


def _as_many_as_are_returned(value: Any, body: Body) -> bool:
    return _same(value, body.get("n") or 1)


_NO_TOOLS = "tools are served at the chat endpoints only; leave it out, or set tool_choice to none"
_NO_FUNCTIONS = "use tools and tool_choice; leave it out"
_NO_GRAMMARS = "answers are not constrained at this endpoint; leave it out, or use /v1/chat/completions"
_NO_TAGS = "structural tags are not served here; leave it out, or write a grammar"
_NO_SAMPLER = "this sampler is not served here; leave it out, or use temperature, top_p, top_k and min_p"
_NO_MEDIA = "this server reads and writes text only; leave it out"
_NO_SEARCH = "beam search is served by /v1/translate only (beam_width); leave it out"

_TABLE: tuple[ForeignField, ...] = (
    # OpenAI: labels, and settings of their service
    *_neutral("OpenAI", "user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key"),
    *_neutral("OpenAI", "prompt_cache_retention", "parallel_tool_calls", "prediction"),
    *_hints("OpenAI", "store", neutral=(False,)),
    *_hints("OpenAI", "stream", "stream_options", neutral=(False, {})),  # where answers come whole
    *_hints("OpenAI", "verbosity", neutral=("medium",)),
    *_hints("OpenAI", "reasoning_effort", neutral=("none",)),
    ForeignField("tools", "OpenAI", ([],), refusal=_NO_TOOLS, asks_nothing=_no_tool_may_be_called),
    *_refused("OpenAI", _NO_TOOLS, tool_choice=("none", "auto")),
    ForeignField("functions", "OpenAI", ([],), refusal=_NO_FUNCTIONS, asks_nothing=_no_tool_may_be_called),
    *_refused("OpenAI", _NO_FUNCTIONS, function_call=("none", "auto")),
    *_refused("OpenAI", _NO_GRAMMARS, response_format=({"type": "text"},)),
    *_refused("OpenAI", _NO_MEDIA, modalities=(["text"],), audio=()),
    *_refused("OpenAI", "there is no search here; leave it out", web_search_options=()),
    *_refused("OpenAI", "not served here; write the model's own tokens of fill-in-the-middle into the prompt",
              suffix=("",)),
    ForeignField("best_of", "OpenAI", (1,), refusal="ask for as many choices as should be returned, with n",
            asks_nothing=_as_many_as_are_returned),
    # vLLM, SGLang, TGI
    *_hints("vLLM", "priority", neutral=(0,)),
    *_hints("vLLM", "request_id", "session_id", "chat_id", "id", "vllm_xargs", "kv_transfer_params"),
    *_hints("vLLM", "mm_processor_kwargs", "include_reasoning", "thinking_token_budget", "length_penalty",
            "early_stopping", neutral=(1, False, {})),
    *_hints("vLLM", "spaces_between_special_tokens", "detokenize", neutral=(True,)),
    *_hints("vLLM", "guided_decoding_backend", "guided_whitespace_pattern"),
    *_refused("vLLM", _NO_GRAMMARS, structured_outputs=({},), guided_json=(), guided_regex=("",), guided_choice=([],),
              guided_grammar=("",)),
    *_refused("vLLM", _NO_TAGS, structural_tag=("",), grammar_lazy=(False,), grammar_triggers=([],)),
    *_refused("SGLang", _NO_GRAMMARS, regex=("",), ebnf=("",)),
    *_refused("vLLM", _NO_SEARCH, use_beam_search=(False,), num_beams=(1,)),
    *_refused("vLLM", "chat templates come from the checkpoint; leave it out", chat_template=("",), documents=([],)),
    *_refused("vLLM", "leave it out", logits_processors=([],), return_tokens_as_token_ids=(False,)),
    *_refused("vLLM", "not served at this endpoint; leave it out, or use logit_bias", bad_words=([],),
              allowed_token_ids=([],)),
    *_refused("vLLM", "not served at this endpoint; leave it out", cache_salt=("",), prompt_logprobs=(),
              truncate_prompt_tokens=(), return_token_ids=(False,), continue_final_message=(False,),
              add_generation_prompt=(True,), chat_template_kwargs=({},)),
    *_hints("vLLM", "add_special_tokens", "skip_special_tokens", "include_stop_str_in_output", neutral=(True, False)),
    *_refused("vLLM", "a chat is not echoed here; leave it out, or use /v1/completions", echo=(False,)),
    *_aliases("TGI", "max_tokens", "max_new_tokens"),
    *_aliases("TGI", "stop", "stop_sequences", "stopping_strings"),
    *_refused("TGI", "set temperature to 0 to take the likeliest token", do_sample=(True,)),
    # llama.cpp
    *_hints("llama.cpp", "cache_prompt", "timings_per_token", "return_progress", "post_sampling_probs",
            "response_fields", "n_discard", "return_tokens", neutral=(False,)),
    *_hints("llama.cpp", "id_slot", "slot_id", neutral=(-1,)),
    *_hints("llama.cpp", "n_probs", "n_keep", "n_indent", "min_keep", "repeat_last_n", neutral=(0,)),
    *_hints("llama.cpp", "penalize_nl", "samplers", "logit_bias_exp", neutral=(False, [])),
    *_aliases("llama.cpp", "max_tokens", "n_predict"),
    *_aliases("llama.cpp", "prompt", "content"),  # of /tokenize
    *_aliases("llama.cpp", "add_special_tokens", "add_special"),
    *_aliases("llama.cpp", "return_token_strs", "with_pieces"),
    *_aliases("llama.cpp", "repetition_penalty", "repeat_penalty"),
    *_refused("llama.cpp", _NO_GRAMMARS, grammar=("",), json_schema=({}, "")),
    *_refused("llama.cpp", _NO_SAMPLER, typical_p=(1,), typ_p=(1,), tfs_z=(1,), mirostat=(0,), dynatemp_range=(0,),
              dry_multiplier=(0,), xtc_probability=(0,), top_n_sigma=(0, -1)),
    *_neutral("llama.cpp", "mirostat_tau", "mirostat_eta", "dynatemp_exponent", "dry_base", "dry_allowed_length",
              "dry_penalty_last_n", "dry_sequence_breakers", "xtc_threshold"),  # of samplers that are switched off
    *_refused("llama.cpp", "leave it out, or set max_tokens", t_max_predict_ms=(0, -1)),
    *_refused("llama.cpp", "adapters are not served here; leave it out", lora=([],)),
    *_refused("llama.cpp", _NO_MEDIA, image_data=([],)),
    # Ollama, Open WebUI
    *_hints("Ollama", "keep_alive", "options", neutral=({},)),
    *_hints("Ollama", "num_ctx", "num_keep", "num_batch", "num_gpu", "num_thread", "main_gpu", "use_mmap", "use_mlock"),
    *_hints("Ollama", "think", "thinking", neutral=(False, {"type": "disabled"})),
    *_aliases("Ollama", "max_tokens", "num_predict"),
    *_refused("Ollama", _NO_GRAMMARS, format=("",)),
    *_refused("Ollama", _NO_MEDIA, images=([],)),
    *_refused("Ollama", "send it as a message", system=("",)),
    *_refused("Ollama", "send the whole conversation as messages", context=([],)),
    *_refused("Ollama", "chat templates come from the checkpoint; leave it out", template=("",), raw=(False,)),
    *_neutral("OpenAI", "prompt_cache_options", "background_options", "moderation", "access_programs"),
    *_hints("OpenAI", "truncation", "max_tool_calls", neutral=("disabled",)),
    *_refused("OpenAI", "wait for the answer instead; leave it out", background=(False,)),
    # Anthropic
    *_neutral("Anthropic", "cache_control", "inference_geo", "diagnostics", "user_profile_id", "workspace_id", "betas"),
    *_hints("Anthropic", "context_management", "speed", neutral=({}, "standard")),
    *_refused("Anthropic", "this server calls no other servers; leave it out", mcp_servers=([],), container=()),
    # text-generation-webui, KoboldCpp, SillyTavern
    *_aliases("SillyTavern", "repetition_penalty", "rep_pen"),
    *_aliases("SillyTavern", "ignore_eos", "ban_eos_token"),
    *_aliases("SillyTavern", "add_special_tokens", "add_bos_token"),
    *_aliases("Mistral", "seed", "random_seed"),
    *_hints("Mistral", "safe_prompt", neutral=(False,)),
    *_hints("SillyTavern", "truncation_length", "repetition_penalty_range", "rep_pen_range", "temperature_last",
            "sampler_order", "sampler_priority", neutral=(0, False)),
    *_neutral("SillyTavern", "smoothing_curve", "mirostat_mode_tau"),
    *_refused("SillyTavern", _NO_SAMPLER, top_a=(0,), tfs=(1,), typical=(1,), mirostat_mode=(0,), smoothing_factor=(0,),
              epsilon_cutoff=(0,), eta_cutoff=(0,), penalty_alpha=(0,), no_repeat_ngram_size=(0,), guidance_scale=(1,),
              encoder_repetition_penalty=(1,), rep_pen_slope=(0, 1), skew=(0,), nsigma=(0,)),
    *_refused("SillyTavern", "leave it out, or use logit_bias", negative_prompt=("",), custom_token_bans=("",),
              banned_strings=([],), banned_tokens=([], "")),
    # Mistakes that are made often
    *_refused("clients", "send its fields at the top level of the body", extra_body=({},), parameters=({},)),
)  # fmt: skip

FOREIGN_FIELDS: Mapping[str, ForeignField] = {field.name: field for field in _TABLE}


@dataclass(frozen=True, slots=True)
class Translated:
    """A body in our own fields, and what became of the others.

    `ignored` are named in warnings, `unknown` are those of them that are not in the table, `refused` says what to do
    instead of a field, and `renamed` maps our fields to the names the client used.
    """

    fields: dict[str, Any]
    ignored: tuple[str, ...]
    unknown: tuple[str, ...]
    refused: Mapping[str, str]
    renamed: Mapping[str, str]


def translate_fields(body: Body, own: Collection[str], required: Collection[str]) -> Translated:
    """Apply the table to a body for an endpoint with the fields `own`. A null stands for a field that is left out."""
    fields, ignored, unknown, refused, renamed = {}, [], [], {}, {}
    for name, value in body.items():
        foreign = FOREIGN_FIELDS.get(name)
        if name in own:
            if value is not None or name in required:
                fields[name] = value
        elif value is None or (foreign is not None and foreign.is_neutral(value, body)):
            continue
        elif foreign is None:
            ignored.append(name)
            unknown.append(name)
        elif foreign.alias_of is not None and foreign.alias_of in own:
            if body.get(foreign.alias_of) is None:
                fields[foreign.alias_of] = value
                renamed[foreign.alias_of] = name
        elif foreign.refusal is not None:
            refused[name] = foreign.refusal
        else:
            ignored.append(name)
    return Translated(fields, tuple(ignored), tuple(unknown), refused, renamed)


def warnings_of(ignored: Iterable[str]) -> list[str]:
    """A sentence for each ignored field, and one for the rest if there are many."""
    names = list(ignored)
    found = [f"{name[:64]}: ignored, it has no effect here." for name in names[:MAX_NAMED_FIELDS]]
    if len(names) > MAX_NAMED_FIELDS:
        found.append(f"{len(names) - MAX_NAMED_FIELDS} more fields were ignored.")
    return found


def markdown() -> str:
    """The table as a document, see docs/fields.md."""
    rows = [f"| `{field.name}` | {field.servers} | {_values(field)} | {field.otherwise} |" for field in _TABLE]
    return "\n".join(["| field | of | asks for nothing | otherwise |", "|---|---|---|---|", *rows]) + "\n"


def _values(field: ForeignField) -> str:
    return ", ".join(["`null`", *(f"`{json.dumps(value)}`" for value in field.neutral)])

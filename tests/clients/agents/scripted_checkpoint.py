"""Writes a checkpoint that answers as a script says: `python scripted_checkpoint.py DIRECTORY`.

It is a Llama of one layer whose next token depends on the last one alone. The chat template ends a prompt with one of
several marks, each of which begins another answer: a call of the tool `weather`; after its result a text, or a call of
the tool that ends a conversation, if there is one. So frameworks of agents can be tested with a whole conversation.
"""

import json
import sys
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

# Pieces are tokens; no two are alike. None begins with < and ends with >: such a token would count as special.
CALL = ("<tool_call", '>\n{"name": "weather"', ', "arguments": ', '{"city": "Paris"}', "}\n", "</tool_call", ">")
TEXT = ("It is sunny", " in Paris.")
FINAL_ANSWER = ('<tool_call>\n{"name": "final_answer", "arguments": {"answer": "Paris"}}\n</tool_call', ">")
FINAL_RESULT = (
    '<tool_call>\n{"name": "final_result", "arguments": {"city": "Paris", "sunny": true}}\n</tool_call',
    ">",
)
ANSWERS = {"<|call|>": CALL, "<|text|>": TEXT, "<|final_answer|>": FINAL_ANSWER, "<|final_result|>": FINAL_RESULT}
NAME = "Paris"
END = "<|im_end|>"
SPECIAL = ("<|im_start|>", END, *ANSWERS)
TEMPLATE = """\
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% set names = (tools or []) | map(attribute='function.name') | list %}
{%- if 'weather' in names and messages[-1].role != 'tool' and 'Observation' not in messages[-1].content %}<|call|>
{%- elif 'final_answer' in names %}<|final_answer|>
{%- elif 'final_result' in names %}<|final_result|>
{%- else %}<|text|>{% endif %}{% endif %}"""


def tokenizer_of_bytes() -> Tokenizer:
    """A token per byte, and one per piece."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: number for number, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    pieces = [piece for answer in ANSWERS.values() for piece in answer if len(piece) > 1]
    tokenizer.add_tokens([AddedToken(piece, special=False, normalized=False) for piece in (*pieces, NAME)])
    return tokenizer


def successors(tokenizer: Tokenizer) -> dict[int, int]:
    found = dict.fromkeys(range(tokenizer.get_vocab_size()), tokenizer.token_to_id(END))
    for mark, answer in ANSWERS.items():
        path = [tokenizer.token_to_id(text) for text in (mark, *answer, END)]
        found |= dict(pairwise(path))
    return found


def write(directory: Path) -> None:
    tokenizer = tokenizer_of_bytes()
    size = tokenizer.get_vocab_size()
    hidden = -(-size // 64) * 64
    config = {
        "model_type": "llama", "vocab_size": size, "hidden_size": hidden, "intermediate_size": 32, "head_dim": 16,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16384,
        "eos_token_id": tokenizer.token_to_id(END),
    }  # fmt: skip
    head = torch.zeros(size, hidden)
    for token, successor in successors(tokenizer).items():
        head[successor, token] = 1.0
    # What a grammar forces is off the script. There, strings are "Paris" and booleans are true.
    for text, likely in (('"', 0.5), ("t", 0.25)):
        head[tokenizer.token_to_id(text)] += likely
    head[tokenizer.token_to_id(NAME), tokenizer.token_to_id('"')] += 0.75
    layer = "model.layers.0."
    weights = {
        "model.embed_tokens.weight": torch.eye(size, hidden),
        "model.norm.weight": torch.ones(hidden),
        "lm_head.weight": head,
        layer + "input_layernorm.weight": torch.ones(hidden),
        layer + "post_attention_layernorm.weight": torch.ones(hidden),
    }
    for name, shape in {
        "self_attn.q_proj": (64, hidden), "self_attn.k_proj": (32, hidden), "self_attn.v_proj": (32, hidden),
        "self_attn.o_proj": (hidden, 64), "mlp.gate_proj": (32, hidden), "mlp.up_proj": (32, hidden),
        "mlp.down_proj": (hidden, 32),
    }.items():  # fmt: skip
        weights[f"{layer}{name}.weight"] = torch.zeros(shape)
    directory.mkdir(parents=True, exist_ok=True)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE, "eos_token": END}))
    (directory / "generation_config.json").write_text(json.dumps({"do_sample": False}))


if __name__ == "__main__":
    write(Path(sys.argv[1]))

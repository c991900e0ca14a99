"""The chat form of the bundled model, as the jinja template of its checkpoint."""

# Written without whitespace control by line ends, so that any jinja environment renders the same text.
CHAT_TEMPLATE = (
    "{%- if messages and messages[0]['role'] == 'system' -%}"
    "{%- set system = messages[0]['content'] | trim -%}{%- set turns = messages[1:] -%}"
    "{%- else -%}"
    "{%- set system = '' -%}{%- set turns = messages -%}"
    "{%- endif -%}"
    "{{- '<|im_start|>system\n' -}}"
    "{%- if not system.startswith('<|task:') -%}{{- '<|task:chat|>' -}}{%- endif -%}"
    "{{- system + '<|im_end|>\n' -}}"
    "{%- for message in turns -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)

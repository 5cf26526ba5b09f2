"""Chat templates that recipes may call by name.

Written for this project from the formats that the models' makers describe; a test compares what
they render with what mergekit's templates of the same names render.
"""

_ALPACA = """\
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{{- message.content.strip() -}}
{%- endif -%}
{%- endfor -%}
{%- for message in messages if message.role != 'system' -%}
{{- '\\n\\n' -}}
{%- if message.role == 'user' -%}
{{- '### Instruction:\\n' + message.content.strip() -}}
{%- elif message.role == 'assistant' -%}
{{- '### Response:\\n' + message.content.strip() -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt and messages[-1].role != 'assistant' -%}
{{- '### Response:\\n' -}}
{%- endif -%}
"""

_CHATML = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

_EXAONE = """\
{%- if messages[0].role != 'system' -%}
{{- '[|system|][|endofturn|]\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '[|' + message.role + '|]' + message.content -}}
{{- '\\n' if message.role == 'user' else '[|endofturn|]\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '[|assistant|]' -}}
{%- endif -%}
"""

_LLAMA3 = """\
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' -}}
{{- message.content.strip() + '<|eot_id|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- endif -%}
"""

_MISTRAL = """\
{%- set has_system = messages[0].role == 'system' -%}
{%- set turns = messages[1:] if has_system else messages -%}
{{- bos_token -}}
{%- for message in turns -%}
{%- if message.role not in ('user', 'assistant') -%}
{{- raise_exception('A conversation has the roles user and assistant, after a system message.') -}}
{%- elif (message.role == 'user') != (loop.index0 % 2 == 0) -%}
{{- raise_exception('User and assistant must take turns, after an optional system message.') -}}
{%- elif message.role == 'user' -%}
{%- set before = messages[0].content + '\\n\\n' if has_system and loop.first else '' -%}
{{- ' [INST] ' + before + message.content + ' [/INST]' -}}
{%- else -%}
{{- ' ' + message.content + eos_token -}}
{%- endif -%}
{%- endfor -%}
"""

CHAT_TEMPLATES = {
    "alpaca": _ALPACA,
    "chatml": _CHATML,
    "exaone": _EXAONE,
    "llama3": _LLAMA3,
    "mistral": _MISTRAL,
}

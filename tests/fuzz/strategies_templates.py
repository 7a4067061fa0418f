"""Chat templates: of pieces that real ones have, and of pieces that raise, rewrite, repeat, drop, or never end."""

import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fuzzing import Kind
from hypothesis import strategies as st

from headscope.benchmarks import chat
from headscope.benchmarks.task import Rendering

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from small_tokenizer import small_tokenizer

CONTENT = (
    *("{{ m['content'] }}", "{{ m.content }}", "{{ m['content'] | trim }}", "{{ m['content'].strip() }}"),
    *("{{ m['content'] | upper }}", "{{ m['content'] | replace('\\n', ' ') }}", "{{ m['content'][:9] }}", ""),
    *("{{ m['content'] }}{{ m['content'] }}", "{{ m['content'][0]['text'] }}", "{{ m['content'] | e }}"),
    *("{{ m['content'] | tojson }}", "{{ m }}", "{{ m['content'] | indent }}", "{{ m['content'] | wordwrap(9) }}"),
    *("{{ m['content'].split('\\n') | join('\\n') }}", "{{ m['content'] | random }}", "{{ m['content'] | reverse }}"),
    *("{% for part in m['content'] %}{{ part.text }}{% endfor %}", "{{ m['content'].lstrip() }}"),
    *("{% if m['content'] is string %}{{ m['content'] }}{% else %}{{ m['content'][0].text }}{% endif %}",),
    "{% if m['content'] | length > 30 %}{{ m['content'] }}{% endif %}",
)
AROUND = (
    *("", "<|im_start|>user\n", "<|im_end|>\n", "Today: {{ strftime_now('%d %b %Y') }}\n", "{{ date_string }}\n"),
    *("{{ raise_exception('no system message') }}", "{{ bos_token }}", "{{ tools[0].name }}", "{{ system.name }}"),
    *(
        "{{ [1, 2, 3] | random }}",
        "{{ lipsum(n=1) }}",
        "{{ range(9) | random }}",
        "{{ 1 // 0 }}",
        "{{ messages | tojson }}",
    ),
    *(
        "{{ range(1000000000) | list }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    ),
    *(
        "{{ messages[1]['content'] }}",
        "{{ m.content | count }}",
        "{% if tools %}x{% endif %}",
        "{{ {}.x.y }}",
        "{{ self }}",
    ),
    *("{{ ''.__class__ }}", "{{ cycler.__init__.__globals__ }}", "{% include 'x' %}", "{% import 'os' as os %}"),
    *("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ namespace }}", "{% generation %}x{% endgeneration %}"),
    *("Question: what?", "{{ m['content'][:20] }}", "\ud800", "{% set strftime_now = 3 %}", "{{ raise_exception }}"),
)
WHOLE = (
    *(None, "", " ", "{{", "{% for %}", "{% endfor %}", "plain", 5, [], {}, True, {"default": "{{ messages }}"}),
    *({"tool_use": "x"}, ["{{ messages[0].content }}"], b"{{ messages[0].content }}", "{{ messages[0].content }}"),
)
LOOPS = (
    "{{% for m in messages %}}{before}{content}{after}{{% endfor %}}{end}",
    "{before}{{% set m = messages[0] %}}{content}{after}{end}",
    "{{%- for m in messages -%}} {before} {content} {after} {{%- endfor -%}} {end}",
)


@st.composite
def templates(draw: st.DrawFn) -> Any:
    """Choose a template, of pieces or whole."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from(WHOLE))
    pieces = {name: draw(st.just("") | st.sampled_from(AROUND)) for name in ("before", "after", "end")}
    return draw(st.sampled_from(LOOPS)).format(content=draw(st.sampled_from(CONTENT)), **pieces)


RENDERING = Rendering(" Read this & that.\nSome words, 'quoted'.\n", "Question: what?\nSay it. ", " Answer:", ["x"])


def check_template(template: Any) -> str:
    """Assemble a prompt twice; both are the same, and hold the question once, where the offset says."""
    tokenizer = small_tokenizer(template)
    with patch.object(chat, "SECONDS", 0.2):
        prompt, other = (chat.assemble(RENDERING, tokenizer, chat_template=True) for _ in range(2))
    assert prompt == other, "another prompt each time"
    context, question, text = (part.strip() for part in (RENDERING.context, RENDERING.question, RENDERING.text))
    assert prompt.text.count(context) == prompt.text.count(text) == 1, prompt
    assert prompt.text.index(text) + len(context) + 1 == prompt.question_offset, prompt
    assert prompt.text[prompt.question_offset :].startswith(question), prompt
    assert prompt.text[prompt.prefix_offset :] == RENDERING.answer_prefix, prompt
    prompt.text.encode()
    return "a prompt"


KINDS = [Kind("chat templates", templates(), check_template, ci=20, long=300)]

"""The template sandbox: a bad template stops soon and with a clear word, a good one renders as anywhere."""

import time
import timeit

import jinja2
import pytest

from model.text.template_sandbox import clock as template_clock
from model.text.template_sandbox import limits
from model.text.template_sandbox.bounded_template import BoundedTemplate
from model.text.template_sandbox.clock import Clock
from model.text.template_sandbox.limits import MAX_CHARACTERS, TemplateLimitError

NESTED_LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
GOOD = """
{%- macro shout(text) %}{{ text | upper }}!{% endmacro %}
{%- set ns = namespace(count=0) %}
{%- for item in items recursive %}
    {%- if item is string %}{% set ns.count = ns.count + 1 %}[{{ loop.index }}/{{ loop.length }}:{{ shout(item) }}]
    {%- else %}({{ loop(item) }}){% endif %}
    {%- if loop.last %}{{ "=" * ns.count ~ "%d" % ns.count }}{% endif %}
    {%- if ns.count > 90 %}{% break %}{% endif %}
{%- endfor %}
{%- macro frame() %}<{{ caller() }}>{% endmacro %}
{%- call frame() %}{{ "{:>5}".format("a") }}{{ "%3d" | format(7) }}{{ "b\nc" | indent(2) }}{% endcall %}
{{ items }}{{ missing }}{{ "x" ~ missing ~ none ~ 1 ~ items }}{{ {"b": [1.5, true], "a": "é"} | dictsort }}
{{ items | join(", ") }}{{ [1, "a"] | join("-") }}{{ [{"a": 1}, {"a": 2}] | join(attribute="a") }}{{ "+".join("abc") }}
{{ "aXbX".replace("X", "yy", 1) }}{{ "aXbX" | replace("X", "") }}{{ ("<b>" | safe).replace("b", "<") }}
{{ [1, 2, 3] | batch(2, 0) | list }}{{ [1, 2, 3] | slice(2) | list }}{{ [1, 2] | sum }}{{ 2.567 | round(1) }}
{{ "%s and %5.1f%%" % ("a", 2) }}{{ "a" | center(9) }}{{ "a b" | truncate(4) }}
{{ items | map("string") | map("upper") | list }}
{% set block %}<{{ shout("a") }}>{% endset %}{{ block }}{% filter upper %}a{{ items[0] }}{% endfilter %}
{% block part %}{{ items | length }}{% endblock %}{{ self.part() }}
{% autoescape true %}{{ "<" ~ items[0] }}{% endautoescape %}
"""


def render(source: str, seconds: float = 1.0, **variables: object) -> str:
    return BoundedTemplate(source).render(variables, Clock(seconds))


@pytest.mark.parametrize(
    "source",
    [
        NESTED_LOOP,
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for x in range(99999) recursive %}{% if loop.depth < 9 %}{{ loop(range(99999)) }}{% endif %}{% endfor %}",
        "{% set template_clock = none %}" + NESTED_LOOP,
        "{% macro f() %}{{ caller() }}{% endmacro %}{% call f() %}" + NESTED_LOOP + "{% endcall %}",
        "{% macro nop() %}{% endmacro %}{% set template_clock = namespace(check=nop) %}"
        "{% block a scoped %}" + NESTED_LOOP + "{% endblock %}",
        "".join(
            f"{{% block b{n} %}}{{{{ self.b{n + 1}() }}}}{{{{ self.b{n + 1}() }}}}{{% endblock %}}" for n in range(60)
        )
        + "{% block b60 %}{% endblock %}",
        "{{ (range(99999) | list * 10) | map('string') | list | length }}",
    ],
)
def test_an_endless_template_is_stopped(source: str) -> None:
    started = time.thread_time()
    with pytest.raises(TemplateLimitError, match=r"longer than 0\.05 s"):
        render(source, seconds=0.05)
    assert time.thread_time() - started < 0.5


def work(seconds: float) -> None:
    started = time.thread_time()
    while time.thread_time() < started + seconds:
        pass


def test_what_is_done_between_renderings_costs_the_template_nothing() -> None:
    clock = Clock(0.2)
    for _ in range(2):
        work(0.3)
        assert BoundedTemplate("x").render({}, clock) == "x"


def test_renderings_with_one_clock_share_its_time() -> None:
    clock, template = Clock(0.2), BoundedTemplate("{{ work(0.15) }}")
    template.render({"work": work}, clock)
    with pytest.raises(TemplateLimitError):
        template.render({"work": work}, clock)


def test_plain_jinja_would_go_on() -> None:
    with pytest.raises(TemplateLimitError):
        render("{% for i in range(99999) %}{% endfor %}", seconds=0.0)
    assert jinja2.Environment().from_string("{% for i in range(99999) %}{% endfor %}").render() == ""


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10**12 }}",
        "{{ [0] * 10**10 }}",
        "{{ 10**10 * [0] }}",
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{{ 2 ** 1000000 }}",
        "{% set ns = namespace(x=9) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
        "{{ '%9999999d' % 1 }}",
        "{{ '%*d' % (9999999, 1) }}",
        "{{ '%(a)9999999d' % {'a': 1} }}",
        "{{ '%((a))9999999d' % {'(a)': 1} }}",
        "{{ '%9999999d' | format(1) }}",
        "{{ '{:9999999}'.format(1) }}",
        "{{ '{:{}}'.format(1, 9999999) }}",
        "{{ '{::>9999999}'.format(1) }}",
        "{{ 'a' | center(9999999) }}",
        "{{ 'a\nb' | indent(width=9999999) }}",
        "{{ [1] | tojson(indent=9999999) }}",
        "{% for i in range(99999) %}{{ 'aaaaaaaaaa' * 100 }}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ ['b' * 4000] * 4000 }}",
        "{{ [2 ** 2000] * 20000 }}",
        "{% set ns = namespace(x='a') %}{% for i in range(24) %}{% set ns.x = ns.x | tojson %}{% endfor %}",
        "{% set ns = namespace(x=[0]) %}{% for i in range(30) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{% macro f() %}{% for i in range(4000) %}{{ 'b' * 4000 }}{% endfor %}{% endmacro %}{{ f() | length }}",
        "{% set x %}{% for i in range(4000) %}{{ 'b' * 4000 }}{% endfor %}{% endset %}{{ x | length }}",
    ],
)
def test_a_growing_template_is_stopped(source: str) -> None:
    with pytest.raises(TemplateLimitError):
        render(source, seconds=20.0)


@pytest.mark.parametrize("source", ["{{ text.format() }}", "{{ text % () }}"])
def test_a_format_is_looked_at_in_time_proportional_to_its_length(source: str) -> None:
    template, character = BoundedTemplate(source), ":" if "format" in source else "%%"

    def seconds(count: int) -> float:
        variables = {"text": character * count}
        return min(timeit.repeat(lambda: template.render(variables, Clock(20.0)), number=1, repeat=3))

    assert seconds(16_000) < 3 * 8 * seconds(2_000)


def test_a_percent_sign_before_a_parenthesis_is_not_a_name() -> None:
    assert render("{{ '%d%%(about)' % 50 }}") == "50%(about)"


@pytest.mark.parametrize(
    "expression",
    [
        "('a' * 4000).replace('a', 'b' * 4000)",
        "('a' * 4000).replace('', 'b' * 4000)",
        "('a' * 4000) | replace('a', 'b' * 4000)",
        "['a' * 4000] | map('replace', 'a', 'b' * 4000) | list",
        "('b' * 4000).join('a' * 4000)",
        "''.join(['b' * 4000] * 4000)",
        "('a' * 4000) | join('b' * 4000)",
        "([{'x': 'b' * 4000}] * 4000) | join(attribute='x')",
        "[1] | batch(4000, 'b' * 4000) | list",
        "[1] | slice(4000, 'b' * 4000) | list",
        "([[1] * 4000] * 4000) | sum(start=[])",
        "1.5 | round(4000, 'ceil')",
        "5 | round(-1000000000)",
        "('a\n' * 9000) | indent(999)",
        "'a\nb' | indent('c' * 4000)",
        "('{0}' * 4000).format('b' * 4000)",
        "('{0:>999}' * 9000).format(1)",
        "('%999d' * 9000) % ((1,) * 9000)",
        "'%s' % [['b' * 4000] * 4000]",
        "{'a': ['b' * 4000] * 4000} | string",
        "[{'a': ['b' * 4000] * 4000}.items()] ~ 'a'",
        "(['b' * 4000] * 4000) | tojson",
        "strftime_now('%c' * 4000)",
    ],
)
def test_what_grows_is_refused_before_it_is_made(expression: str) -> None:
    with pytest.raises(TemplateLimitError):
        render(f"{{{{ ({expression}) | length }}}}", seconds=20.0)


SHARING = """
{%- set ns = namespace(a=[], b=[], t=(), u=()) %}
{%- for i in range(12) %}
    {%- set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}
    {%- set ns.t = (ns.t, ns.t) %}{% set ns.u = (ns.u, ns.u) %}
{%- endfor %}"""


@pytest.mark.parametrize(
    "expression",
    [
        "ns.a == ns.b",
        "ns.a < ns.b",
        "[] != ns.a <= ns.b",
        "ns.a in [ns.b]",
        "ns.a is eq ns.b",
        "[ns.a, ns.b] | sort",
        "[ns.a, ns.b] | min",
        "[ns.t, ns.u] | unique | list",
        "[[ns.t, 1]] | map('first') | unique | list",
        "[{'a': ns.a}, {'a': ns.b}] | groupby('a')",
        "[ns.a] | selectattr('missing', 'eq', ns.b) | list",
        "[ns.a].index(ns.b)",
        "{1: ns.a}.items() == {1: ns.b}.items()",
        "{1: ns.t}.items() - {1: ns.u}.items()",
        "{1: ns.a}.keys().mapping == {1: ns.b}.keys().mapping",
        "{1: ns.a}.keys().mapping ~ ''",
        "{ns.t: 1}",
        "{}[ns.t]",
        "{}.get(ns.t)",
        "dict([(ns.t, 1)])",
        "ns.t is filter",
        "ns.a | attr(ns.t)",
        "raise_exception(ns.a)",
        "'{0.a}'.format(ns)",
    ],
)
def test_values_that_share_parts_are_weighed_before_all_parts_are_looked_at(
    expression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_CHARACTERS", 80_000)
    assert render(SHARING + "done") == "done"
    with pytest.raises(TemplateLimitError):
        render(f"{SHARING}{{{{ ({expression}) and 1 }}}}", seconds=20.0)


@pytest.mark.parametrize("expression", ["{ns.t: 1}", "ns.t == ()", "ns.t == ns.t"])
def test_lists_in_lists_are_refused_where_they_are_deep(expression: str) -> None:
    template = "{% set ns = namespace(t=()) %}{% for i in range(N) %}{% set ns.t = (ns.t,) %}{% endfor %}"
    assert render(template.replace("N", "50") + f"{{{{ ({expression}) and 1 }}}}") in ("1", "False")
    with pytest.raises(TemplateLimitError, match="in each other"):
        render(template.replace("N", "101") + f"{{{{ ({expression}) and 1 }}}}")


def test_a_comparison_of_changes_is_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CHARACTERS", 80_000)
    with pytest.raises(TemplateLimitError):
        render(SHARING + "{% for x in [ns.a, ns.b] %}{{ loop.changed(x) }}{% endfor %}", seconds=20.0)


def test_filters_that_yield_do_not_nest_without_end() -> None:
    chain = (
        "{% set ns = namespace(x=['a']) %}{% for i in range(2000) %}{% set ns.x = ns.x | map('upper') %}{% endfor %}"
    )
    assert render(chain + "{{ ns.x | list }}") == "['A']"


def test_what_a_filter_yields_is_true_and_read_once_as_a_generator() -> None:
    source = "{% set x = [] | map('upper') %}{{ x is iterable }}{{ x is sequence }}{% if x %}true{% endif %}"
    assert render(source) == jinja2.Template(source).render() == "TrueFalsetrue"
    source = "{% set x = [1, 2] | select %}{{ x | first }}{{ x | list }}{{ x | list }}"
    assert render(source) == jinja2.Template(source).render() == "1[2][]"


@pytest.mark.parametrize(
    "expression",
    [
        "('f' * 1000) | int(base=16)",
        "(0).from_bytes([255] * 1000, 'big')",
        "1e300 | int // 3",
        "range(0, 2 ** 61 * 99999, 2 ** 61) | list",
    ],
)
def test_large_numbers_are_refused(expression: str) -> None:
    with pytest.raises(TemplateLimitError, match="too large a number"):
        render(f"{{{{ ({expression}) and 1 }}}}")


def test_numbers_of_machines_are_no_large_numbers() -> None:
    assert render("{{ (2 ** 62 - 1) // 3 - 7 % 4 }}{{ x }}", x=2**100) == f"{(2**62 - 1) // 3 - 3}{2**100}"


@pytest.mark.parametrize("expression", ["0xffffffffffffffffffff // 0xfff", "9" * 5000, "1 if 3 > " + "9" * 30])
def test_large_numbers_are_refused_when_a_template_is_loaded(expression: str) -> None:
    with pytest.raises(ValueError, match="is not valid"):
        BoundedTemplate(f"{{{{ {expression} }}}}")


def test_nothing_is_computed_when_a_template_is_loaded() -> None:
    template = BoundedTemplate("{% if x %}{{ 'aaa'.replace('a', 'b' * 4000000) }}{{ 1 // 0 }}{% endif %}")
    assert template.render({}, Clock()) == ""


def test_a_template_that_python_cannot_compile_is_not_valid() -> None:
    with pytest.raises(ValueError, match="is not valid"):
        BoundedTemplate("{% for x in y %}" * 30 + "{% endfor %}" * 30)


@pytest.mark.parametrize(
    "expression",
    ["rfind(sought)", "rindex(sought)", "rsplit(sought)", "rpartition(sought)", "strip('b' * 50000 ~ 'a')"],
)
def test_searches_that_look_at_everything_again_and_again_are_refused(expression: str) -> None:
    with pytest.raises(TemplateLimitError, match="from its end"):
        render("{% set sought = 'ab' + 'a' * 50000 %}{{ ('a' * 50000)." + expression + " }}")


def test_short_searches_are_as_anywhere() -> None:
    source = (
        "{{ x.rsplit(' ', 1) }}{{ x.rsplit() }}{{ x.rfind('a', 0, 2) }}{{ x.strip('a') }}{{ x.strip() | trim('a') }}"
    )
    source += "{{ x.split() }}{{ x.split(none, 1) }}{{ x.split(sep=' ', maxsplit=1) }}{{ x.splitlines(true) }}"
    assert render(source, x="a b\nc a ") == jinja2.Template(source).render(x="a b\nc a ")


@pytest.mark.parametrize(
    "expression",
    [
        "text.split()",
        "text.rsplit()",
        "text.split('a', 9999999)",
        "(text | safe).split('a')",
        "text.replace('a', '\n').splitlines()",
        "text | list",
        "text | reverse",
        "text | sort",
        "text | title",
        "text | wordcount",
        "text | join",
        "[0] * (2 * most)",
        "[0] * most + [0] * most",
    ],
)
def test_long_lists_are_refused(expression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CHARACTERS", 8000)
    with pytest.raises(TemplateLimitError):
        render(f"{{{{ ({expression}) and 1 }}}}", text="a " * 1001, most=1000)


@pytest.mark.parametrize(
    "made",
    [
        "[text * 100]",
        "[text.partition('b')]",
        "[text.rpartition('b')]",
        "[text.split('b')]",
        "[" + "1, " * 500 + "]",
        "{" + "".join(f"{n}: 1, " for n in range(500)) + "}",
        "[text[1:] * 10]",
        "[text[:999]]",
        "[([0] * 500)[1:]]",
        "[(' a' * 500).split()]",
        "[text.upper()]",
        "[text | upper]",
        "[text ~ text]",
        "[echo(text)]",
        "[[0] * 500]",
        "text | list | batch(1) | list",
    ],
)
def test_what_a_rendering_makes_in_total_is_bounded(made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_clock, "MAX_BYTES", 2**20)
    source = "{% macro echo(x) %}{{ x }}{% endmacro %}{% for i in range(N) %}{% set x = " + made + " %}{% endfor %}"
    clock, text = Clock(20.0), "a" * 1000
    for _ in range(2):
        BoundedTemplate(source.replace("N", "1")).render({"text": text}, clock)
    with pytest.raises(TemplateLimitError, match="MiB"):
        BoundedTemplate(source.replace("N", "2000")).render({"text": text}, clock)


@pytest.mark.parametrize(
    "expression",
    [
        "({1: 1}.keys() - [2]).union(*([range(1000)] * 9000))",
        "({1: 1}.keys() - [2]).union(*([range(1000) | list] * 9000))",
        "('%s' * 9000) | format(*([range(1000) | list] * 9000))",
        "''.format(*([range(1000) | list] * 9000))",
    ],
)
def test_arguments_are_weighed_together(expression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CHARACTERS", 80_000)
    started = time.thread_time()
    with pytest.raises(ValueError, match=r"chat template"):
        render(f"{{{{ ({expression}) and 1 }}}}", seconds=20.0)
    assert time.thread_time() - started < 0.2


def test_loops_that_are_never_entered_are_stopped() -> None:
    template = BoundedTemplate("{% for x in items if 0 %}{% endfor %}" * 1000)
    with pytest.raises(TemplateLimitError, match=r"longer than 0\.05 s"):
        template.render({"items": [0] * 20000}, Clock(0.05))


def test_one_long_operation_after_another_is_stopped() -> None:
    template = BoundedTemplate("{% if 'b' in text %}{% endif %}{% if text == other %}{% endif %}" * 300)
    texts = {"text": "a" * MAX_CHARACTERS, "other": "".join(["a" * MAX_CHARACTERS])}
    with pytest.raises(TemplateLimitError, match=r"longer than 0\.05 s"):
        template.render(texts, Clock(0.05))


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ items.append(1) }}",
        "{{ 'a'.ljust(10**9) }}",
        "{{ 'a'.translate({97: 'b'}) }}",
        "{{ 'a'.encode().ljust(10**9) }}",
        "{{ (1).to_bytes(10**9, 'big') }}",
        "{{ '{a}'.format_map({'a': 1}) }}",
        "{% include 'other' %}",
        "{{ lipsum(n=10**9) }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ items[0].missing.thing }}",
        "{{ items + 'a' }}",
        "{{ 1 / 0 }}",
        "{{ 1e999 }}",
        "{{ cycler() }}",
        "{{ 'a' | truncate(1, true, 'ab') }}",
        "{{ dict.update({}, {}) }}",
    ],
)
def test_a_failing_template_is_a_value_error(source: str) -> None:
    with pytest.raises(ValueError, match="cannot render these messages"):
        render(source, items=["a"])


@pytest.mark.parametrize("source", ["{{ x", "{% for %}", "{{ 'a' | nothing }}", "{{ 'a' | urlize }}"])
def test_an_invalid_template_is_refused_when_loaded(source: str) -> None:
    with pytest.raises(ValueError, match="is not valid"):
        BoundedTemplate(source)


def test_a_good_template_renders_as_in_plain_jinja() -> None:
    items = ["a", ["b", "c"], "d"]
    plain = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    assert render(GOOD, items=items) == plain.from_string(GOOD).render(items=items)


def test_filters_are_not_computed_in_advance_where_no_clock_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[str] = []
    monkeypatch.setitem(jinja2.filters.FILTERS, "upper", lambda text: computed.append(text) or text)
    template = BoundedTemplate("{% if 'a' | upper %}{{ 'b' | upper }}{% endif %}")
    assert computed == []
    template.render({}, Clock())
    assert computed == ["a", "b"]


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' + text ~ 'y' }}",
        "{{ text.replace('a', 'b') | replace('b', 'c') | trim | upper }}xy",
        "{{ ['x', text] | join }}{{ ''.join(['y']) }}",
        "{{ '%s%s' % ('x', text) }}y",
        "{{ 'x{}'.format(text) }}y",
        "{{ [{'a': text}] | map(attribute='a') | join }}xy",
        "{% macro f() %}x{{ text }}{% endmacro %}{{ f() }}y",
    ],
)
def test_long_messages_are_no_attack(source: str) -> None:
    text = "a" * (MAX_CHARACTERS // 2)
    assert len(render(source, text=text)) == len(text) + 2


def test_json_keeps_letters_as_they_are() -> None:
    assert render("{{ {'a': '你'} | tojson }}") == '{"a": "你"}'


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", '{"b": "你", "a": [1]}'),
        ("ensure_ascii=True", '{"b": "\\u4f60", "a": [1]}'),
        ("separators=(',', ':')", '{"b":"你","a":[1]}'),
        ("sort_keys=True", '{"a": [1], "b": "你"}'),
        ("indent=1, sort_keys=True", '{\n "a": [\n  1\n ],\n "b": "你"\n}'),
        ("False, none, none, True", '{"a": [1], "b": "你"}'),
    ],
)
def test_tojson_takes_the_arguments_that_transformers_gives_it(arguments: str, expected: str) -> None:
    assert render(f"{{{{ {{'b': '你', 'a': [1]}} | tojson({arguments}) }}}}") == expected


def test_long_separators_are_counted() -> None:
    with pytest.raises(TemplateLimitError):
        render("{% set x = 'a' * 9000 %}{{ ([1] * 2000) | tojson(separators=(x, x)) }}")


def test_what_is_between_generation_marks_is_rendered() -> None:
    marked = "{% generation %}{{ m.content }}{% if loop.last %}!{% endif %}{% endgeneration %}"
    messages = [{"role": "a", "content": "b"}, {"role": "c", "content": "d"}]
    assert render(f"{{% for m in messages %}}{{{{ m.role }}}}{marked}{{% endfor %}}", messages=messages) == "abcd!"


def test_a_loop_between_generation_marks_is_stopped() -> None:
    with pytest.raises(TemplateLimitError, match=r"longer than 0\.05 s"):
        render("{% generation %}" + NESTED_LOOP + "{% endgeneration %}", seconds=0.05)


def test_a_generation_mark_without_an_end_is_not_valid() -> None:
    with pytest.raises(ValueError, match="is not valid"):
        BoundedTemplate("{% generation %}a")


def test_the_texts_that_a_template_names_are_known() -> None:
    assert {"<|a|>", "b", "<c>"} <= BoundedTemplate("<|a|>{% if 'b' in x %}{{ '<c>' + x }}{% endif %}").literals

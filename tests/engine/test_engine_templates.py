"""Template expressions: what they evaluate to, and that nonsense is an error and never a crash."""

from __future__ import annotations

import resource

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowherd_engine.templates import TemplateError, resolve, truth

SCOPE = {
    "a": {"n": 3, "s": "x", "f": 2.0, "list": [1, 2], "none": None, "obj": {"k": [{"z": True}]}},
    "my-step": {"out": 5, "a-b": "c"},
}


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{{a.n}}", 3),
        ("{{ a.obj.k[0].z }}", True),
        ("{{a['s']}}", "x"),
        ("{{a.list}}", [1, 2]),
        ("{{a.list[-1]}}", 2),
        ("{{a.list.0}}", 1),
        ("{{my-step.out}}", 5),
        ("{{my-step.out * 2 + 1}}", 11),
        ("{{my-step.a-b}}", "c"),
        ("{{a.f}}", 2.0),
        ("{{a.f + 1}}", 3.0),
        ("{{a.obj}}", {"k": [{"z": True}]}),
        ("{{a.list[a.n - 2]}}", 2),
        ("{{a.items}}", None),
        ("{{a.keys | default('d')}}", "d"),
        ("{{a.missing.deeper if false else 1}}", 1),
        ("{{a.missing is defined or a.n is not undefined}}", True),
        ("{{[a.n, a.s]}}", [3, "x"]),
        ("{{ {'k': a.n} }}", {"k": 3}),
        ("{{a.list + [3]}}", [1, 2, 3]),
        ("{{'ab' * 2 ~ '!'}}", "abab!"),
        ("{{2 * -a.n}}", -6),
        ("{{2 ** 3}}", 8),
        ("{{a.s | replace('x', 'y') | upper}}", "Y"),
        ("{{a.list | join(d='+')}}", "1+2"),
        ("{{null}}", None),
        ("{{a.n - 1}}", 2),
        ("{{ a.n-1 }}", 2),
        ("{{1 + 2 * a.n}}", 7),
        ("{{(1 + 2) * a.n / 2}}", 4.5),
        ("{{a.n > 2 and a.s == 'x'}}", True),
        ("{{not a.n in [1, 2]}}", True),
        ("{{a.missing | default('d')}}", "d"),
        ("{{a.none | coalesce(7)}}", 7),
        ("{{a.list | last}}", 2),
        ("{{a.list | length}}", 2),
        ("{{a.list | join('-')}}", "1-2"),
        ("{{a.obj | tojson}}", '{"k":[{"z":true}]}'),
        ("n={{a.n}} s={{a.s}} {{a.none}} {{true}}", "n=3 s=x none true"),
        ("{{a.list}}!", "[1,2]!"),
        ("{{'it\\'s'}}", "it's"),
        ("{{-a.n | int}}", -3),
        ("{{nowhere}}", None),
        (" {{a.missing}} ", None),
        ("{{a.list[9]}}", None),
        ({"k": ["{{a.n}}", 1]}, {"k": [3, 1]}),
        ("no template }}", "no template }}"),
    ],
)
def test_expressions_evaluate(template, value):
    found = resolve(template, SCOPE)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "template",
    [
        "{{}}",
        "x{{nowhere}}",
        "x{{a.missing}}",
        "{{a.missing.deeper}}",
        "{{a.n.x.y}}",
        "x{{a.list[9]}}",
        "{{a.n +}}",
        "{{a.s - 1}}",
        "{{1 / 0}}",
        "{{a.n | nofilter}}",
        "{{a.missing | upper}}",
        "{{(a.n}}",
        "{{a.n b}}",
        "{{a ? b}}",
        "{% if x %}{{a.n}}{% endif %}",
        "{{" + "(" * 3000 + "}}",
        "{{'" + "x" * 5000 + "'}}",
        "x{{a.missing if true}}",
        "{{a.s.upper()}}",
        "{{a.list.append(1)}}",
        "{{(a.list).append(1)}}",
        "{{a.list | first.append(1)}}",
        "{{range(3)}}",
        "{{[1] * 2}}",
        "{{2 * [1]}}",
        "{{a.n * a.list}}",
        "{{(a.obj).items}}",
        "{{ {1: 2} }}",
    ],
)
def test_nonsense_is_a_template_error(template):
    """protocol.md §11.3: undefined is strict within text."""
    with pytest.raises(TemplateError):
        resolve(template, SCOPE)


@pytest.mark.parametrize(
    "template",
    [
        "{{'x' * 100000000}}",
        "{{'x' * 1000000 * 1000}}",
        "{{['x'] * 100000000}}",
        "{{100000000 * ['x']}}",
        "{{1 * (['x']) * 100000000}}",
        "{{2 * (1 and ['x']) * 100000000}}",
        "{{(['x'] * 10000000) | coalesce(1)}}",
        "{{text * 100}}",
        "{{text ~ " + "text ~ " * 99 + "text}}",
        "{{text}}" * 100,
        "{{[" + "many, " * 100 + "many] | string}}",
        "{{many + " + "many + " * 99 + "many}}",
        "{{[" + "text, " * 100 + "text] | tojson}}",
        "{{text | replace('x', '" + "y" * 100 + "')}}",
        "{{'x' | indent(100000000, true)}}",
        "{{'%100000000d' | format(1)}}",
        "{{[1] | tojson(indent=100000000)}}",
        "{{'\"'" + " | tojson" * 40 + "}}",
        "{{'a'" + " | replace('a', 'aa')" * 40 + "}}",
        "{{[1] | batch(100000000, 'x')}}",
        "{{many | map('replace', '1', text)}}",
        "{{many | join(text)}}",
        "{{range(100000000) | list}}",
        "{% for a in many %}{% for b in many %}{{text}}{% endfor %}{% endfor %}",
        ["{{text}}"] * 100,
    ],
)
def test_what_a_small_template_may_build_is_bounded(template):
    """N20: a hundred times a megabyte of text or of numbers is refused, and no memory is taken for it before."""
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TemplateError):
        resolve(template, {"text": "x" * 2**20, "many": list(range(2**17))})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 2**18


def test_large_values_pass_where_they_are_only_handed_on():
    """The bound is for what is built: an output of 50 MB is an ordinary one."""
    scope = {"a": {"text": "x" * 50_000_000, "many": list(range(1_000_000))}}
    assert resolve("{{a.text}}", scope) is scope["a"]["text"]
    assert resolve({"x": ["{{a.many}}"]}, scope) == {"x": [scope["a"]["many"]]}
    assert resolve("{{a.many | length}} {{a.text | length}}", scope) == "1000000 50000000"


@pytest.mark.parametrize(
    ("value", "held"),
    [
        (True, True),
        ("False", False),
        ("no", True),
        ("", False),
        (0, False),
        (0.5, True),
        (None, False),
        ([], True),
    ],
)
def test_the_truth_of_a_condition_is_the_servers(value, held):
    assert truth(value) is held


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab.n[]()|'\"+-*/<>=! 019{}_%~,notrue", max_size=40))
def test_any_text_resolves_or_is_a_template_error(text):
    try:
        resolve("{{" + text + "}}", SCOPE)
    except TemplateError:
        return

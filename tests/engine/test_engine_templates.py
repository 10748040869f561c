"""Template expressions: what they evaluate to, and that nonsense is an error and never a crash."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowherd_engine.templates import TemplateError, resolve, truth

SCOPE = {
    "a": {"n": 3, "s": "x", "list": [1, 2], "none": None, "obj": {"k": [{"z": True}]}},
    "my-step": {"out": 5},
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
    assert resolve(template, SCOPE) == value


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
    ],
)
def test_nonsense_is_a_template_error(template):
    """protocol.md §11.3: undefined is strict within text."""
    with pytest.raises(TemplateError):
        resolve(template, SCOPE)


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

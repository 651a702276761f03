"""Skeletons write what the template writes, and there is none where nobody could be sure."""

from __future__ import annotations

import itertools

import pytest
from data.chat_templates import TEMPLATES

from prefrep.data.skeletons import CHECKED, Skeletons
from prefrep.nn.loading import load_tokenizer
from prefrep.records import Message, Messages

CONTENTS = ["a", " b \n", "<think>x</think> c", "{{ d }}", "\u00e9 \"'<&>", "</think>", "x" * 50, "\n\n", ""]


def made(template: str | None) -> Skeletons:
    tokenizer = load_tokenizer("bundled:tiny-llama")
    tokenizer.chat_template = template
    return Skeletons(tokenizer)


def turns(*contents: str) -> Messages:
    return tuple(Message(("user", "assistant")[i % 2], content) for i, content in enumerate(contents))


@pytest.mark.parametrize("name", [name for name, template in TEMPLATES.items() if template])
@pytest.mark.parametrize("generation", [False, True])
def test_they_write_what_the_template_writes(name: str, generation: bool) -> None:
    skeletons = made(TEMPLATES[name])
    apply = skeletons._tokenizer.apply_chat_template
    for contents in [*itertools.product(CONTENTS, repeat=2), *itertools.product(CONTENTS[:4], repeat=3)]:
        messages = turns(*contents)
        expected = apply([message.as_dict() for message in messages], tokenize=False, add_generation_prompt=generation)
        assert skeletons.render(messages, generation, {}) == expected
    assert any(skeletons._known.values()), "this family has skeletons"
    assert all(each.checks == 0 for each in skeletons._known.values() if each is not None)


@pytest.mark.parametrize("name", ["chatml", "llama3"])
def test_the_template_runs_a_few_times_per_shape(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    skeletons = made(TEMPLATES[name])
    calls = []
    apply = skeletons._tokenizer.apply_chat_template
    monkeypatch.setattr(skeletons._tokenizer, "apply_chat_template", lambda *args, **more: calls.append(1) or apply(*args, **more))  # type: ignore[func-returns-value]
    for i in range(50):
        skeletons.render(turns(f"q{i}", f"a{i}"), False, {})
    assert len(calls) == CHECKED + 1, "the checks, and one for the skeleton"


@pytest.mark.parametrize(
    "body",
    [
        "{{ m.content | upper }}", "{{ m.content[:2] }}", "{{ m.content | length }}", "{{ m.content | replace('a', 'b') }}",
        "{{ m.content | e }}", "{{ m.content | tojson }}", "{% if m.content == 'x' %}!{% endif %}{{ m.content }}",
        "{% if m.content > 'b' %}!{% endif %}{{ m.content }}", "{% if m.content ~ '' == 'x' %}!{% endif %}{{ m.content }}",
        "{{ m.content.split('x') | first }}", "{% set y %}{{ m.content }}{% endset %}{{ y }}", "{{ m.content * 2 }}", "{{ m }}",
        "{% for c in m.content %}{{ c }}-{% endfor %}", "{{ m.content.strip('a') }}", "{{ '%s' | format(m.content) }}",
        "{{ m.content.startswith(' ') }}{{ m.content }}",
    ],
)  # fmt: skip
def test_there_is_none_where_contents_matter(body: str) -> None:
    skeletons = made("{% for m in messages %}" + body + "{% endfor %}")
    skeletons.render(turns("q", "a"), False, {})
    assert list(skeletons._known.values()) == [None]


def test_contents_that_a_template_looks_for_run_it() -> None:
    skeletons = made("{% for m in messages %}{% if '!' in m.content %}{{ 'loud' }}{% else %}{{ m.content | trim }}{% endif %}{% endfor %}")
    assert [skeletons.render(turns(" q", "a! "), False, {}) for _ in range(5)] == ["qloud"] * 5
    assert [skeletons.render(turns(" q", "a "), False, {}) for _ in range(5)] == ["qa"] * 5
    assert next(iter(skeletons._known.values())) is not None


def test_a_refusal_is_that_of_the_template() -> None:
    skeletons = made("{{ raise_exception('not so') }}")
    for _ in range(2):
        with pytest.raises(Exception, match="not so"):
            skeletons.render(turns("q", "a"), False, {})


def test_another_template_has_other_skeletons() -> None:
    skeletons = made(TEMPLATES["chatml"])
    first = skeletons.render(turns("q", "a"), False, {})
    skeletons._tokenizer.chat_template = TEMPLATES["llama3"]
    assert skeletons.render(turns("q", "a"), False, {}) != first


@pytest.mark.parametrize("filled", ["'%s.' % m.content", "''.join([m.content, '.'])"])
def test_contents_in_new_texts_are_not_tracked(filled: str) -> None:
    """What a template asks of a text that it made of a content, nobody sees: there is no skeleton."""
    skeletons = made(f"{{% for m in messages %}}{{% set t = {filled} %}}{{{{ '[x]' if '<secret>' in t else t }}}}{{% endfor %}}")
    written = [skeletons.render(turns(content), False, {}) for content in ["a", "b", "c", "d", "<secret>"]]
    assert written == ["a.", "b.", "c.", "d.", "[x]"]

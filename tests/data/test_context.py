"""A column as context: it stands in the prompt that a model reads, and controls change groups and nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from conftest import comparison, encoder

from prefrep.data.context import control, told
from prefrep.errors import DataError
from prefrep.records import Message

RECORDS = [comparison(f"Say {i}", "yes", "no", group=group, tags={"country": "NL"}) for i, group in enumerate("abcab" * 40)]


def test_the_first_user_message_names_the_value() -> None:
    record = replace(RECORDS[0], prompt=(Message("system", "Be brief."), Message("user", "Why?"), Message("user", "How?")))
    assert [m.content for m in told(record, "group").prompt] == ["Be brief.", "[group: a]\nWhy?", "How?"]
    assert told(record, "country").prompt[1].content == "[country: NL]\nWhy?"
    for column in ("", "annotator", "city"):
        assert told(record, column) is record, "nothing is known, so nothing is said"
    silent = replace(record, prompt=())
    assert told(silent, "group") is silent


def test_what_is_encoded_is_what_one_would_have_written() -> None:
    """The reference: the context typed into the prompt by hand, with no context configured."""
    by_hand = [replace(each, prompt=(Message("user", f"[group: {each.group}]\n{each.prompt[0].content}"),)) for each in RECORDS[:6]]
    for layout in ("single", "pair"):
        found = [datum for _, datum in encoder(layout=layout, context="group").encode(RECORDS[:6])]
        expected = [datum for _, datum in encoder(layout=layout).encode(by_hand)]
        for one, other in zip(found, expected, strict=True):
            assert one is not None and other is not None
            for tree, reference in zip(one.trees, other.trees, strict=True):
                assert tree.prompt == reference.prompt
                assert all(np.array_equal(a, b) for a, b in zip(tree.sequences, reference.sequences, strict=True))


def test_controls_change_groups_alone() -> None:
    groups = [record.group for record in RECORDS]
    wrong, shuffled = (list(control(RECORDS, how, 1)) for how in ("wrong-group", "shuffled-groups"))
    assert all(a.group != b.group and a.group in "abc" for a, b in zip(wrong, RECORDS, strict=True))
    assert Counter(record.group for record in shuffled) == Counter(groups) and [record.group for record in shuffled] != groups
    for changed in (wrong, shuffled):
        assert [replace(each, group=own) for each, own in zip(changed, groups, strict=True)] == RECORDS
    assert list(control(RECORDS, "wrong-group", 1)) == wrong != list(control(RECORDS, "wrong-group", 2))
    unnamed = [*RECORDS[:3], replace(RECORDS[3], group="")]
    assert list(control(unnamed, "wrong-group"))[3].group == ""
    with pytest.raises(DataError, match="needs two groups or more in the column 'group', and there are 1"):
        list(control([RECORDS[0]], "shuffled-groups"))

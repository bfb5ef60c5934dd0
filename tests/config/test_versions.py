"""Versions of methods: settings of an earlier version keep their meaning and their hash."""

import pytest
from pydantic import ValidationError

from neuroprune.config.canonical import canonical
from neuroprune.config.methods import METHOD_SETTINGS

TARGETS = [("neuroprune", 4), ("l1", 2), ("taylor", 2), ("random", 2)]
DROPOUT_SINCE = [("neuroprune", 3), ("l1", 2), ("taylor", 2), ("random", 2)]
PENALTIES = [
    ("neuroprune", {"alpha": 1.0, "theta": 0.2}, 2),
    ("neuroprune", {"sparsity": 0.5, "alpha": 1.0, "theta": 0.2, "algorithm": "penalties"}, 2),
    ("l1", {"strength": 1e-3}, 1),
]


@pytest.mark.parametrize(("name", "since"), DROPOUT_SINCE)
def test_dropout_ends_at_the_last_event_since_a_version(name, since):
    kind = METHOD_SETTINGS[name]
    now, before = kind(sparsity=0.5, version=since), kind(sparsity=0.5, version=since - 1)
    assert (now.version, now.post_dropout) == (since, 0.0) and now.model_dump()["post_dropout"] == 0.0
    assert (before.version, before.post_dropout) == (since - 1, 1.0) and "post_dropout" not in before.model_dump()
    assert kind.model_validate(before.model_dump()) == before and kind.model_validate(now.model_dump()) == now
    assert canonical(now) != canonical(before)


def test_the_fold_depends_on_the_length_since_version_4_and_earlier_records_keep_their_hash():
    kind = METHOD_SETTINGS["neuroprune"]
    assert (kind(sparsity=0.5).version, kind(sparsity=0.5).fold) == (4, "auto")
    for version in (2, 3):
        before = kind(sparsity=0.5, version=version)
        assert before.fold is True and before.model_dump()["fold"] is True
        assert kind.model_validate(before.model_dump()) == before


@pytest.mark.parametrize(("name", "newest"), TARGETS)
def test_settings_that_were_chosen_are_kept_in_every_version(name, newest):
    for version in (newest - 1, newest):
        settings = METHOD_SETTINGS[name](sparsity=0.5, version=version, post_dropout=0.5)
        assert settings.post_dropout == settings.model_dump()["post_dropout"] == 0.5
    with pytest.raises(ValidationError, match="version"):
        METHOD_SETTINGS[name](sparsity=0.5, version=newest + 1)


@pytest.mark.parametrize(("name", "newest"), TARGETS)
def test_a_version_with_its_defaults_counts_as_unchanged(name, newest):
    for version in range(settings_before(name), newest + 1):
        settings = METHOD_SETTINGS[name](sparsity=0.5, version=version)
        assert [key for key, value in settings if value != settings.default(key)] == ["sparsity"]


def settings_before(name):
    """Return the version of a method's settings before its first change."""
    return METHOD_SETTINGS[name].new_defaults[0].since - 1


@pytest.mark.parametrize(("name", "fields", "version"), PENALTIES, ids=str)
def test_forms_without_events_have_no_new_version(name, fields, version):
    kind = METHOD_SETTINGS[name]
    settings = kind(**fields)
    assert settings.version == version and "post_dropout" not in settings.model_dump()
    assert kind.model_validate(settings.model_dump()) == settings
    with pytest.raises(ValidationError, match="post_dropout: without effect"):
        kind(**fields, post_dropout=0)
    for later in range(version + 1, kind(sparsity=0.5).version + 1):
        with pytest.raises(ValidationError, match="forms with removal events; leave it out"):
            kind(**fields, version=later)

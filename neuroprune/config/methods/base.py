"""Base classes of the methods' settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, NamedTuple, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from neuroprune.config.fields import TASK_KINDS, Fraction, Positive, Schedule, Settings


class PruningSettings(Settings):
    """Settings of a pruning method."""

    task_kinds: ClassVar[tuple[str, ...]] = TASK_KINDS

    @property
    def form(self) -> str:
        """The method's form in tables: `target`, unless overridden."""
        return "target"

    def _refuse(self, unread: Iterable[str], reason: str) -> None:
        """Reject settings that have no effect with the others, unless they have their default values."""
        given = [name for name in unread if getattr(self, name) != self.default(name)]
        if given:
            them = "it" if len(given) == 1 else "them"
            raise ValueError(f"{', '.join(given)}: without effect {reason}; leave {them} out")

    @property
    def removal(self) -> float:
        """Fraction of the steps, on average, before units are physically removed; 1 if the method only zeroes."""
        return 1.0


class NewDefault(NamedTuple):
    """A default of the forms with events that a version of a method changed."""

    since: int
    """First version with the present default."""
    name: str
    """The setting."""
    before: Any
    """Default, or behaviour without the setting, in earlier versions."""
    added: bool = False
    """Whether earlier versions did not have the setting."""


EVENTS = ("start", "end", "events", "post_lr", "post_dropout", "freeze_embeddings")
"""Settings of removal events; see `EventSettings`."""


class EventSettings(PruningSettings):
    """Settings of removal events, shared by all methods with a target form."""

    later_defaults: ClassVar[tuple[tuple[str, Any], ...]] = ()
    new_defaults: ClassVar[tuple[NewDefault, ...]] = (NewDefault(2, "post_dropout", 1.0, added=True),)
    """Changed defaults, ordered by version. Forms without events keep the version before the first of these."""
    version: int

    start: Schedule = Field(
        default=1 / 3,
        description="Fraction of the steps at which the first event takes place; earlier, scores say little about the "
        "task.",
    )
    end: Schedule = Field(
        default=1 / 2,
        description="Fraction of the steps at which the last event takes place and the target is reached.",
    )
    events: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=3,
        description="Number of pruning events of the target form, spread evenly from start to end; a single large "
        "removal can ruin the model.",
    )
    post_lr: Positive = Field(
        default=2.0, description="Factor on the learning rate after the last event, re-warmed over 3 % of the steps."
    )
    post_dropout: Fraction = Field(
        default=0.0,
        description="Factor on all dropout rates after the last event; 0 switches dropout off. Forms without events "
        "keep dropout.",
    )
    freeze_embeddings: bool = Field(default=True, description="Freeze the embeddings after the last event.")

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out defaults of settings that were added later, so that earlier settings keep their hash."""
        added = [(new.name, new.before) for new in self._changed_after(self.version) if new.added]
        left_out = (*self.later_defaults, *added)
        return {key: value for key, value in serialize(self).items() if (key, value) not in left_out}

    @model_validator(mode="before")
    @classmethod
    def _as_in_its_version(cls, values: Any) -> Any:
        """Give settings of an earlier version, and forms without events, the defaults of their version."""
        if not isinstance(values, dict):
            return values
        first, last = (cls.new_defaults[place].since for place in (0, -1))
        newest = last if cls.has_events(values) else first - 1
        version = values.get("version", newest)
        if not isinstance(version, int):
            return {"version": version} | values
        if newest < version <= last:
            raise ValueError(f"version: {version} is that of forms with removal events; leave it out")
        return {"version": version} | cls._defaults_before(version) | values

    @classmethod
    def has_events(cls, values: Mapping[str, Any]) -> bool:
        """Return whether settings, before their validation, are those of a form with removal events."""
        return True

    def default(self, name: str) -> Any:
        """Return the default value of a setting in the settings' own version."""
        own = {"version": self.version} | self._defaults_before(self.version)
        return own.get(name, super().default(name))

    @classmethod
    def _changed_after(cls, version: int) -> list[NewDefault]:
        """Return what later versions changed."""
        return [new for new in cls.new_defaults if version < new.since]

    @classmethod
    def _defaults_before(cls, version: int) -> dict[str, Any]:
        """Return the defaults of a version that later ones changed."""
        return {new.name: new.before for new in cls._changed_after(version)}

    @property
    def mean_event(self) -> float:
        """Fraction of the steps halfway between the first and the last event."""
        return (self.start + self.end) / 2

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_order()
        return self

    def _check_order(self) -> None:
        """Reject an end before the start."""
        if self.start > self.end:
            raise ValueError(f"start ({self.start:g}) must not be after end ({self.end:g})")

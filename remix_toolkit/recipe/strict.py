"""Models that refuse what they do not know, each mistake at its key."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from remix_toolkit.errors import nearest


def refuse(tree: Mapping[str, Any], mistakes: Mapping[str, str]) -> None:
    """Raise a mistake in each of these keys of a mapping, as pydantic raises its own."""
    errors = [
        InitErrorDetails(type=PydanticCustomError("mistake", "{what}", {"what": what}), loc=(key,), input=tree[key])
        for key, what in mistakes.items()
    ]
    if errors:
        raise ValidationError.from_exception_data("mistakes", errors)


class Strict(BaseModel):
    """Unknown keys and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_key(cls, tree: Any) -> Any:
        known = {field.alias or name: field for name, field in cls.model_fields.items()}
        unknown = [key for key in tree if key not in known] if isinstance(tree, dict) else []
        refuse(tree, {key: f"unknown key; {nearest(key, known)}" for key in unknown})
        return tree


def exactly_one(message: str, *fields: str) -> Any:
    """A validator: just one of these fields is set."""

    def check(model: BaseModel) -> BaseModel:
        if sum(bool(getattr(model, field)) for field in fields) != 1:
            raise ValueError(message)
        return model

    return model_validator(mode="after")(check)

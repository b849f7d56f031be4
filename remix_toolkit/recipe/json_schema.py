"""The JSON Schema of a recipe file, with which editors complete and check it: recipes/schema.json."""

from typing import Any

from remix_toolkit.recipe.schema import Recipe


def json_schema() -> dict[str, Any]:
    """A resolved recipe's schema, in which what a profile sets is optional."""
    schema = Recipe.model_json_schema()
    schema["required"] = ["stages"]
    schema["properties"]["profiles"] = {
        "description": "settings for one profile: dotted keys, as on the command line",
        "type": "object",
        "additionalProperties": {"type": "object"},
    }
    in_domain = {"type": "object", "properties": {"task": {"const": "id"}, "size": {"type": "integer"}}}
    for name in ("LAMA", "EntityQuestions"):  # `paths` may have it
        schema["$defs"][name]["required"].remove("path")
    stage = schema["$defs"]["Stage"]["properties"]
    for rows in (stage["data"], stage["recall"]["items"]):  # a resolved recipe has no `task: id`
        rows["anyOf"] = [{"oneOf": rows.pop("oneOf"), "discriminator": rows.pop("discriminator")}, in_domain]
    for name in ("profile", "source"):  # which load_recipe sets
        del schema["properties"][name]
    return schema

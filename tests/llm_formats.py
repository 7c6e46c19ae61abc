"""What servers do with `response_format`: enforce, take objects only, ignore, or refuse it."""

import json


class Refused(Exception):
    """The request is answered with status 400."""


def in_format(text, wanted, structured, prompt):
    """Return the answer as the server gives it where `wanted` is asked for; raise Refused."""
    if wanted is None or wanted.get("type") == "text" or structured == "ignore":
        return text
    if structured == "reject" or (structured == "object" and wanted["type"] == "json_schema"):
        raise Refused(f"'response_format' of type '{wanted['type']}' is not supported")
    if wanted["type"] == "json_object":
        if "json" not in prompt.lower():
            raise Refused("'messages' must contain the word 'json' in some form")
        return _first_object(text, ()) or "{}"
    schema = _checked(wanted["json_schema"])
    return _first_object(text, schema.get("required", ())) or json.dumps(_instance(schema, schema))


def _checked(form):
    """Return the schema; refuse one that OpenAI would refuse."""
    schema = form["schema"]
    if not form.get("name"):
        raise Refused("Missing required parameter: 'response_format.json_schema.name'")
    if form.get("strict"):
        if schema.get("additionalProperties") is not False:
            raise Refused("Invalid schema: 'additionalProperties' must be false")
        if set(schema.get("required", ())) != set(schema["properties"]):
            raise Refused("Invalid schema: 'required' must include every key in properties")
    return schema


def _first_object(text, required):
    """Return the first JSON object of a text that has the keys, or None."""
    decoder, start = json.JSONDecoder(), 0
    while (start := text.find("{", start)) >= 0:
        try:
            value, _ = decoder.raw_decode(text, start)
        except ValueError:
            value = None
        if isinstance(value, dict) and set(required) <= set(value):
            return json.dumps(value)
        start += 1
    return None


def _instance(schema, root):
    """Return the least value that fits: what constrained decoding leaves of nonsense."""
    if "$ref" in schema:
        return _instance(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "const" in schema or "enum" in schema:
        return schema.get("const", next(iter(schema.get("enum", ())), None))
    if "anyOf" in schema:
        return _instance(schema["anyOf"][0], root)
    kind = schema.get("type")
    if kind == "object":
        return {name: _instance(one, root) for name, one in schema.get("properties", {}).items()}
    if kind == "array":
        return [_instance(schema.get("items", {}), root)] * schema.get("minItems", 0)
    if kind == "string":
        return "x" * max(schema.get("minLength", 1), 1)
    if kind in ("integer", "number"):
        return schema.get("minimum", 0)
    return False if kind == "boolean" else None

"""Grammars of JSON values that are parts of a call.

llguidance reads a schema with the definitions that it refers to. If each part of a call repeated them, the size of the
grammar would be that of all parts times that of the definitions. So what refers to definitions is written out down to
the references, and a definition is a rule, written once.
"""

from model.text.chat_formats.grammar import GrammarBuilder, in_order, one_of, repeated
from model.text.chat_formats.json_values import dumped
from model.text.chat_formats.schema_parts import (
    Schema,
    choice_schemas,
    definition_of,
    has_references,
    item_schema,
    member_schemas,
)


def json_grammar(build: GrammarBuilder, schema: Schema) -> str:
    """A JSON value of a schema."""
    if not has_references(schema):
        return build.json(schema)
    if (definition := definition_of(schema)) is not None:
        identity, defined = definition
        return build.shared(identity, lambda: json_grammar(build, defined))
    members, item, choices = member_schemas(schema), item_schema(schema), choice_schemas(schema)
    if members is not None:
        written = {
            key: f"{build.literal(f'{dumped(key)}: ')} {json_grammar(build, each)}" for key, each in members.items()
        }
        return build.rule(
            f"{build.literal('{')} {in_order(build, written, schema, build.literal(', '))} {build.literal('}')}"
        )
    if item is not None:
        items = repeated(json_grammar(build, item), build.literal(", "), schema)
        return build.rule(f"{build.literal('[')} {items} {build.literal(']')}")
    if choices:
        return build.rule(one_of([json_grammar(build, each) for each in choices]))
    return build.json(schema)

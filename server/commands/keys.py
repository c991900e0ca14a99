"""`routelm keys`: create API keys, list those of a file, and hash a key that exists already."""

import json
import os
import secrets
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.commands.common.errors import errors_in_one_line, failure

if TYPE_CHECKING:
    from server.middleware.api_keys import ApiKey

app = typer.Typer(help="Create and list the API keys of a server.", no_args_is_help=True)

KeysFile = Annotated[
    Path, typer.Option("--keys-file", envvar="ROUTELM_KEYS_FILE", help="TOML or JSON file that `routelm serve` reads.")
]
Limit = Annotated[int | None, typer.Option(min=1)]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Name of the key in metrics, errors and logs.")],
    keys_file: KeysFile,
    scopes: Annotated[
        str, typer.Option(help="What it opens, comma-separated: inference, batches, metrics, admin.")
    ] = "inference",
    requests_per_minute: Limit = None,
    tokens_per_minute: Limit = None,
    max_concurrent_requests: Limit = None,
    priority: Annotated[int, typer.Option(help="Lower is more urgent.")] = 0,
    may_set_priority: Annotated[bool, typer.Option(help="Requests may be more urgent than that.")] = False,
) -> None:
    """Add a new key to the file and print it. It is shown only once: the file holds its hash.

    A running server takes it at once. Remove a key by removing its entry from the file.
    """
    secret = f"rlm-{secrets.token_urlsafe(32)}"
    given: dict[str, Any] = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "max_concurrent_requests": max_concurrent_requests,
        "priority": priority or None,
        "may_set_priority": may_set_priority or None,
    }
    with errors_in_one_line():
        from server.middleware.api_keys import hash_key, parse_key_file, read_api_keys

        entry = {"name": name, "sha256": hash_key(secret.encode()), "scopes": scopes.replace(" ", "").split(",")}
        entry |= {field: value for field, value in given.items() if value is not None}
        if keys_file.exists():
            read_api_keys(keys_file)  # its error names the file
        text = _with_entry(keys_file, entry)
        parse_key_file(text, keys_file.suffix)
        _replace(keys_file, text)
    typer.echo(secret)


@app.command("list")
def list_keys(keys_file: KeysFile) -> None:
    """The names, scopes and limits of the keys in the file."""
    with errors_in_one_line():
        from server.middleware.api_keys import read_api_keys

        for key in read_api_keys(keys_file):
            typer.echo(_line(key))


@app.command("hash")
def hash_command() -> None:
    """Read a key from standard input and print its hash, for the field `sha256` of an entry."""
    from server.middleware.api_keys import hash_key

    secret = sys.stdin.buffer.readline().strip(b" \t\r\n")
    if not secret:
        raise failure("standard input is empty: type or pipe the key")
    typer.echo(hash_key(secret))


def _line(key: "ApiKey") -> str:
    fields = key.model_dump(mode="json", exclude={"name", "sha256", "scopes"}, exclude_defaults=True)
    limits = [f"{name}={value}" for name, value in fields.items()]
    return "  ".join([key.name, ",".join(sorted(key.scopes)), *limits])


def _with_entry(path: Path, entry: dict[str, Any]) -> str:
    """The text of the file with one more entry; comments of a TOML file stay."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    if path.suffix == ".json":
        content = json.loads(before) if before else {"keys": []}
        return json.dumps({**content, "keys": [*content.get("keys", []), entry]}, indent=2) + "\n"
    return _with_table(before, entry)


def _with_table(before: str, entry: dict[str, Any]) -> str:
    """TOML with one more table. Raises ValueError where the keys are an array in one piece, which TOML closes."""
    lines = [f"{field} = {json.dumps(value)}" for field, value in entry.items()]  # as in JSON, for these types
    text = "\n".join([*([before.rstrip("\n"), ""] if before else []), "[[keys]]", *lines, ""])
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise ValueError("The file has `keys = [...]`: write each key as a table, [[keys]], and try again.") from None
    return text


def _replace(path: Path, text: str) -> None:
    """Write the file as a whole, so that a server never reads half of it, with the same owner, group and mode.

    A new one is readable by its owner only.
    """
    target = path.resolve()
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.touch(mode=0o600, exist_ok=False)
    try:
        if target.exists():
            before = target.stat()
            os.chown(temporary, before.st_uid, before.st_gid)
            temporary.chmod(before.st_mode & 0o777)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)

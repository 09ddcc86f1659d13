"""`kadepy keygen`, and where every command takes its network key from: a file or the environment,
never an argument, which the list of processes would show."""

import os
import secrets
from collections.abc import Callable
from typing import Any, TypeVar

import click

VARIABLE = "KADEPY_NETWORK_KEY"
KEY_LEN = 32
FILE_MAX = 1 << 16
"""Bytes of a key file; more is not one."""

F = TypeVar("F", bound=Callable[..., Any])


@click.command()
def keygen() -> None:
    """Print a new network key as hex.

    \b
    Keep it where only you can read it:
        (umask 077; kadepy keygen > network.key)
    """
    click.echo(secrets.token_bytes(KEY_LEN).hex())


def option(command: F) -> F:
    """Gives a command the option `--key-file` and the argument `network_key`: keys, or None."""
    add = click.option(
        "--key-file",
        "network_key",
        type=click.Path(exists=True, dir_okay=False, allow_dash=True),
        callback=_network_key,
        help=f"A file with a network key as hex, or several: the first seals, all open. Without "
        f"it the environment's {VARIABLE} counts.",
    )
    return add(command)


def _network_key(
    ctx: click.Context, param: click.Parameter, path: str | None
) -> list[bytes] | None:
    if path is not None:
        try:
            with click.open_file(path, "rb") as file:
                content = file.read(FILE_MAX + 1)
        except OSError as error:
            raise click.BadParameter(f"cannot read {path}: {error.strerror}") from None
        return _parsed(_text(content), path)
    text = os.environ.get(VARIABLE)
    return None if text is None else _parsed(text, VARIABLE)


def _text(content: bytes) -> str:
    # PowerShell 5 writes what a command prints as UTF-16.
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    return "" if len(content) > FILE_MAX else content.decode(encoding, errors="replace")


def _parsed(text: str, source: str) -> list[bytes]:
    """The keys in a text. No error shows any of it."""
    words = text.split()
    if not words:
        raise click.BadParameter(f"no key in {source}; `kadepy keygen` prints one")
    keys = []
    for number, word in enumerate(words, 1):
        try:
            key = bytes.fromhex(word)
        except ValueError:
            key = b""
        if len(key) != KEY_LEN or not any(key):
            what = "is all zeros" if len(key) == KEY_LEN else f"is not {2 * KEY_LEN} hex digits"
            raise click.BadParameter(f"key {number} of {len(words)} in {source} {what}")
        keys.append(key)
    return keys

"""`kadepy keygen`, and where every command takes its network key from: a file or the environment,
never an argument, which the list of processes would show."""

import os
import re
import secrets
from collections.abc import Callable
from typing import Any, TypeVar

import click

VARIABLE = "KADEPY_NETWORK_KEY"
KEY_LEN = 32
KEYS_MAX = 8
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
    if path is None:
        text = os.environ.get(VARIABLE)
        return None if text is None else _keys(text, VARIABLE)
    source = f"--key-file {click.format_filename(path)}"
    try:
        with click.open_file(path, "rb") as file:
            content = file.read(FILE_MAX + 1)
    # The second where standard input is closed.
    except (OSError, RuntimeError) as error:
        raise _refusal(f"cannot be read: {error}", source) from None
    if len(content) > FILE_MAX:
        raise _refusal("is too long for a key file", source)
    # PowerShell 5 writes what a command prints as UTF-16.
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    return _keys(content.decode(encoding, errors="replace"), source)


def _keys(text: str, source: str) -> list[bytes]:
    """The keys in a text. No error shows any of it."""
    words = text.split()
    if not words:
        raise _refusal("holds no key; `kadepy keygen` prints one", source)
    if len(words) > KEYS_MAX:
        raise _refusal(f"holds {len(words)} keys; at most {KEYS_MAX} are taken", source)
    keys = []
    for number, word in enumerate(words, 1):
        which = f"key {number} of {len(words)}"
        if not re.fullmatch(f"[0-9a-fA-F]{{{2 * KEY_LEN}}}", word):
            digits = f"{2 * KEY_LEN} hex digits"
            raise _refusal(f"{which} has {len(word)} characters, not {digits}", source)
        key = bytes.fromhex(word)
        if not any(key):
            raise _refusal(f"{which} is all zeros, which is no secret", source)
        keys.append(key)
    return keys


def _refusal(what: str, source: str) -> click.BadParameter:
    return click.BadParameter(what, param_hint=[source])

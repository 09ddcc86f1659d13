"""The `kadepy` command and how each of its commands ends; they are the modules beside this."""

import io
import sys

import click

from kadepy import KadepyError
from kadepy.cli import demo, keys, sim


class _Group(click.Group):
    """A group whose commands end quietly on Ctrl-C and with one line on a failure."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(130)
        except BrokenPipeError:
            raise  # click ends quietly when the reader of a pipe has left
        except (KadepyError, OSError) as error:
            raise click.ClickException(" ".join(str(error).split())) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kadepy", prog_name="kadepy", message="%(prog)s %(version)s")
def main() -> None:
    """Find peers by topic, without a server."""
    # A topic may hold letters that an old console or a pipe cannot show: no reason to fail.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


main.add_command(demo.command)
main.add_command(keys.keygen)
main.add_command(sim.command)

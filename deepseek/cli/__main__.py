"""`deepseek`: run a mesh, feed it, train, serve and ask, from a terminal.

Commands print tables and progress for people, and one JSON object as the last line with `--json` for programs. An error
is one message with its code and reason on standard error, and exit status 1; wrong usage is 2.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from common.config import TraceSettings
from common.errors import MeshError
from common.telemetry.traces import Tracer
from deepseek.cli import (
    ask,
    audit,
    dataset,
    demo,
    doctor,
    identity,
    infer,
    join,
    mesh,
    model,
    run,
    train,
    upkeep,
    watermark,
)
from deepseek.cli.interrupts import last_words, remember_interrupts
from deepseek.cli.output import print_error

INTERRUPTED = 130
"""Exit status after Ctrl-C, by the shell's convention of 128 and the signal's number."""

app = typer.Typer(
    name="deepseek",
    help="A self-hosted AI development platform: data in, a served model out.\n\nStart with `deepseek demo`.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("up")(mesh.up)
app.command("down")(mesh.down)
app.command("status")(mesh.status)
app.command("ask")(ask.ask)
app.command("train")(train.train)
app.command("infer")(infer.infer)
app.command("doctor")(doctor.doctor)
app.command("token")(identity.token)
app.command("invite")(join.invite)
app.command("join")(join.join)
app.add_typer(identity.app, name="certs")
app.add_typer(audit.app, name="audit")
app.command("gc")(upkeep.gc)
app.command("backup")(upkeep.backup)
app.command("restore")(upkeep.restore)
app.add_typer(dataset.app, name="dataset")
app.add_typer(run.app, name="run")
app.add_typer(model.app, name="model")
app.add_typer(watermark.app, name="watermark")


def main() -> None:
    """Runs the command line."""
    remember_interrupts()
    try:
        with _traced():
            app()
    except MeshError as error:
        print_error(error)
        sys.exit(1)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print_error(last_words())
        raise


@contextmanager
def _traced() -> Iterator[None]:
    """Begins the trace of a command, always recorded, if there is somewhere to send it; else the services decide."""
    settings = TraceSettings.load()
    tracer = Tracer("cli", settings.trace_target)
    if not tracer.exports:
        yield
        return
    try:
        with tracer.span(" ".join(["deepseek", *sys.argv[1:2]]), sampled=True):
            yield
    finally:
        tracer.close()


if __name__ == "__main__":
    main()

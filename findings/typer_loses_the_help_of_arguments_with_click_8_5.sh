#!/bin/sh
# Typer 0.20.1 shows no help for arguments if click 8.5 is installed.
#
# `TyperArgument.__init__` sets `self.help` and then calls the constructor of `click.Argument`. Since click 8.5, that
# constructor has its own parameter `help`, and assigns it to `self.help`. Typer does not pass this parameter, so the
# constructor replaces the help text with None.
#
# Expected: `--help` explains the argument with both versions of click. Observed: it does so only with click 8.3.
# Exits with 1 if the result changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/program.py" <<'PYTHON'
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def greet(name: Annotated[str, typer.Argument(help="Person to greet.")]) -> None:
    print("hello", name)


app()
PYTHON
seen=
for click in 8.3.1 8.5.1; do
    python3 -m pip install --quiet --disable-pip-version-check --target "$folder/$click" typer==0.20.1 "click==$click"
    if PYTHONPATH="$folder/$click" python3 "$folder/program.py" --help | grep -q "Person to greet"; then
        seen="$seen $click:shown"
    else
        seen="$seen $click:missing"
    fi
done
echo "help of an argument, by version of click:$seen"
[ "$seen" = " 8.3.1:shown 8.5.1:missing" ]

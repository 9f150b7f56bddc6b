"""The reference of the command line, made of the commands themselves: ``python -m understudy.cli.reference > docs/cli.md``."""

import re
import sys

import typer
from typer.cli import get_docs_for_click

from understudy.cli import commands

HEAD = """\
# Command line

Made from the commands by `make reference`; a test holds both to be equal.

**Output.** Answers are on standard output; progress bars (on a terminal only), prompts and errors on standard error. With
`--json` the answer is a JSON document with the field names of the REST API, or a document a line for long lists.
An error is one line that says what to do.

**Exit codes.**

| code | |
|---|---|
| 0 | done |
| 1 | it failed: the service refused or is away, a job failed, a check of `doctor` failed; the line on standard error says why |
| 2 | wrong words: an unknown command or option, a value that cannot be, a file that is not there |
| 3 | the generation that was waited for has ended, and the gate refused the student (`init`, `generate`, `watch`) |
| 130 | Ctrl-C |

**Environment.** `UNDERSTUDY_URL` and `UNDERSTUDY_KEY` stand for `--url` and `--key`. `UNDERSTUDY_DATA`,
`UNDERSTUDY_CATALOG_URL`, `UNDERSTUDY_STORE_URL` and `UNDERSTUDY_BROKER_URL` say where the system is to commands that do
not ask the service (`keys`, `doctor`).

**Completion.** `understudy --install-completion` once, then in a new shell TAB completes commands, options, and the
names of buckets, versions, classes, generations, jobs, sources and recipes. Names are asked for at the service of `--url`
or the environment, for a second at most.

"""

_EXAMPLES = re.compile(r"^Examples?:\n\n((?:understudy .*\n\n?)+)", re.MULTILINE)


def text() -> str:
    """The whole page."""
    app = typer.main.get_command(commands.app)
    context = typer.Context(app, info_name="understudy")
    made = get_docs_for_click(obj=app, ctx=context, name="understudy", title="Commands")
    body = _EXAMPLES.sub(_as_console, made.replace("# Commands", "## Commands", 1)).strip() + "\n"
    return HEAD + re.sub(r"\n{3,}", "\n\n", body)


def _as_console(found: re.Match[str]) -> str:
    lines = "".join(f"$ {line}\n" for line in found.group(1).splitlines() if line)
    return f"**Examples**:\n\n```console\n{lines}```\n\n"


if __name__ == "__main__":
    sys.stdout.write(text())

"""``understudy recipes``: what a student can be trained with, every field with its value and what it means.

It asks no service: recipes are part of the program.
"""

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.table import Table

from understudy import architectures, recipes
from understudy.cli import completion
from understudy.cli.options import AsJson, Replaced, examples, replaced_fields
from understudy.cli.output import console, show_json
from understudy.recipes import Recipe, Teacher, Turn
from understudy.records import Preprocessing

app = typer.Typer()

#: What ``fixres`` is shown for where no student is named: the paper's last stage.
SHOWN_TEACHER = "efficientnet@l2"


@app.command(
    "recipes", epilog=examples("understudy recipes", "understudy recipes paper --student efficientnet@b2 --json")
)
def show(
    name: Annotated[
        str | None,
        typer.Argument(help="Show this one, field by field.", show_default=False, autocompletion=completion.recipes),
    ] = None,
    generation: Annotated[int, typer.Option(min=0, help="For this generation.")] = 0,
    student: Annotated[str | None, typer.Option(help="For this architecture; default: the recipe's own.")] = None,
    num_labeled: Annotated[int, typer.Option(min=1, help="For so many labeled images.")] = Turn.num_labeled,
    replaced: Replaced = None,
    as_json: AsJson = False,
) -> None:
    """List the recipes, or show every field of one: its value, and what it means.

    Steps, sizes and noise depend on the generation, the student and the labeled images, so say which.
    """
    if name is None:
        _list(Turn(generation, student, num_labeled, teacher=_teacher(student)), as_json)
        return
    turn = Turn(generation, student, num_labeled, teacher=_teacher(student))
    recipe = recipes.recipe(name, replaced_fields(replaced), turn)
    if as_json:
        show_json(recipe)
        return
    table = Table("field", "value", "meaning")
    for field, value, meaning in _fields(recipe):
        table.add_row(field, value, meaning)
    console.print(table)


def _list(turn: Turn, as_json: bool) -> None:
    made = {name: make(turn) for name, make in recipes.RECIPES.items()}
    if as_json:
        show_json({name: recipe.model_dump(mode="json") for name, recipe in made.items()})
        return
    table = Table("recipe", "for", "student", "px", "steps", "labels")
    for name, recipe in made.items():
        student = turn.student or recipe.student(turn.generation)
        steps = recipe.student_steps if turn.generation else recipe.teacher_steps
        purpose = (recipes.RECIPES[name].__doc__ or "").split("\n")[0]
        shown = f"{name} (default)" if name == recipes.DEFAULT else name
        table.add_row(shown, purpose, student, str(recipe.size), f"{steps:,}", recipe.pseudo_labels)
    console.print(table)
    console.print("`understudy recipes NAME` shows one field by field.", highlight=False)


def _teacher(student: str | None) -> Teacher:
    """A champion as ``fixres`` would find it."""
    name = student or SHOWN_TEACHER
    net = architectures.scaled(name)
    size = net.size if net else architectures.BASE_SIZE
    usual = Recipe.model_fields
    return Teacher(
        name,
        Preprocessing(
            size=size,
            crop_fraction=usual["crop_fraction"].default,
            interpolation=usual["interpolation"].default,
            mean=usual["mean"].default,
            std=usual["std"].default,
        ),
    )


def _fields(recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    """Name, value as ``--set`` would take it, meaning; of all that may be replaced."""
    values: dict[str, Any] = recipe.model_dump(mode="json")
    for name, field in Recipe.model_fields.items():
        if name in recipes.FIELDS:
            value = values[name]
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield name, shown, field.description or ""

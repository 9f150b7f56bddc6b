"""Giving an API key: a plain form without a script, as it stands before any page."""

from html import escape

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from dashboard.sessions import COOKIE, Sessions
from understudy.errors import UnderstudyError

router = APIRouter()

#: A key that is longer was not made by us.
MAX_KEY_CHARACTERS = 500

_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Understudy: API key</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<link rel="stylesheet" href="/static/look.css"></head><body class="us-login"><main>
<h1>Understudy</h1><p>This service asks for an API key. <code>understudy keys create</code> makes one; with the scope
<code>admin</code> everything here can be used, with any other it can be looked at.</p>{refusal}
<form method="post" action="/login"><label for="key">API key</label>
<input id="key" name="key" type="password" autocomplete="current-password" autofocus required maxlength="500">
<input type="hidden" name="next" value="{after}"><button type="submit">Go on</button></form></main></body></html>"""


@router.get("/login")
async def form(next: str = "/") -> HTMLResponse:
    """The form."""
    return _form(_inside(next))


@router.post("/login")
async def give(request: Request, key: str = Form(max_length=MAX_KEY_CHARACTERS), next: str = Form("/")) -> Response:
    """Take a key that the service takes, and go on where the browser wanted to."""
    sessions: Sessions = request.app.state.sessions
    if not _is_from_here(request):
        return _form("/", "That came from another site's page; give the key here.", 403)
    try:
        token = await sessions.begin(key)
    except UnderstudyError as error:
        return _form(_inside(next), str(error), 401)
    answer = RedirectResponse(_inside(next), status_code=303)
    answer.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=request.url.scheme == "https")
    return answer


@router.post("/logout")
async def leave(request: Request) -> Response:
    """Forget the key."""
    sessions: Sessions = request.app.state.sessions
    sessions.end(request.cookies)
    answer = RedirectResponse("/login", status_code=303)
    answer.delete_cookie(COOKIE)
    return answer


def _form(after: str, refusal: str = "", status: int = 200) -> HTMLResponse:
    said = f'<p class="us-refusal" role="alert">{escape(refusal)}</p>' if refusal else ""
    return HTMLResponse(_PAGE.format(refusal=said, after=escape(after, quote=True)), status_code=status)


def _inside(path: str) -> str:
    """A path of ours; whatever leads elsewhere leads to the first page."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) else "/"


def _is_from_here(request: Request) -> bool:
    """Whether a form was sent by one of our pages, as every browser says."""
    return request.headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")

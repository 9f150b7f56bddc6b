"""Reading a multipart form: whole, or not at all. Its files wait on disk.

A form whose last boundary never comes has been cut off, and what is missing may be a file: Starlette would
answer with the files before it, and nobody would know.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser

from understudy.errors import UploadRefused

#: What is no file is not looked at; clients send a few of these by habit.
MAX_FIELDS = 16


@asynccontextmanager
async def read(request: Request, *, max_files: int) -> AsyncIterator[FormData]:
    """The form for as long as the block lasts. Raises UploadRefused for what is no whole form of so many files."""
    parser = _WholeParser(request.headers, request.stream(), max_files=max_files, max_fields=MAX_FIELDS)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise UploadRefused(f"the multipart form cannot be read: {error.message}", code="bad_form") from error
    try:
        yield form
    finally:
        await form.close()


class _WholeParser(MultiPartParser):
    _is_ended = False

    def on_end(self) -> None:
        """The last boundary was there."""
        self._is_ended = True

    async def parse(self) -> FormData:
        form = await super().parse()
        if not self._is_ended:
            for file in self._files_to_close_on_error:
                file.close()
            raise MultiPartException("it ends before its last boundary; send all of it")
        return form

"""Errors in a handler become messages on the page: refusals by their text, unexpected ones also in the log."""

from __future__ import annotations

import functools
import gc
import html
import logging
import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from app.server.limits import Refused
from app.strings.language import texts, translated

log = logging.getLogger("diffuapriel.app")
FOLDERS = re.compile(r"""(?<![^\s'"(=])(?:[A-Za-z]:)?[\\/](?:[^\\/\s:'"]+[\\/])+""")  # of an absolute path


def as_message(error: BaseException) -> gr.Error:
    """The error as Gradio shows it, escaped: a toast is HTML, and values in it may come from a visitor.

    Files of this machine are named without their folders.
    """
    text = told(error)
    if isinstance(error, ValueError | TypeError | ImportError):
        return gr.Error(html.escape(text), title=texts.REFUSED, print_exception=False)
    if isinstance(error, MemoryError) or is_out_of_memory(error):
        text = text or texts.OUT_OF_MEMORY
        release_frames(error)
        return gr.Error(html.escape(text[:400]), title=texts.NOT_ENOUGH_MEMORY, print_exception=False)
    log.exception("unexpected error", exc_info=error)
    return gr.Error(
        html.escape(texts.GOES_ON.format(kind=type(error).__name__, message=text[:400])),
        title=texts.FAULT,
        print_exception=False,
    )


def told(error: BaseException) -> str:
    """What the visitor reads of an error, in their language.

    The package's own messages are English: a page in another language says what it has a translation for
    (`translated`), and otherwise only that it is not possible.
    """
    if isinstance(error, Refused):
        return str(error)
    text = FOLDERS.sub("", str(error))
    return text if texts.LANGUAGE == "en" else translated(text) or texts.NOT_POSSIBLE


def is_out_of_memory(error: BaseException) -> bool:
    """PyTorch raises its own class on a GPU and a RuntimeError from the CPU's allocator."""
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def release_frames(error: BaseException) -> None:
    """Free what the failed run still holds: the frames of the traceback refer to its tensors."""
    import torch

    traceback.clear_frames(error.__traceback__)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def guarded(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap an ordinary event handler."""

    @functools.wraps(handler)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return handler(*args, **kwargs)
        except gr.Error:
            raise
        except Exception as error:
            raise as_message(error) from error

    return wrapper


def guarded_stream(
    handler: Callable[..., Iterator[Any]], last_update: Callable[[str], Any]
) -> Callable[..., Iterator[Any]]:
    """Wrap an event handler that yields. Closing the wrapper closes the handler, so that its `finally` runs.

    A toast disappears; `last_update(message)` is the update that leaves the message on the page.
    """

    @functools.wraps(handler)
    def wrapper(*args: Any, **kwargs: Any) -> Iterator[Any]:
        try:
            yield from handler(*args, **kwargs)
        except Exception as error:
            told = error if isinstance(error, gr.Error) else as_message(error)
            yield last_update(html.unescape(told.message))
            raise told from error

    return wrapper

"""What programs call: endpoints of the API, which are tools of the MCP server too.

An endpoint is a typed function with a docstring. Its signature becomes the schema, its docstring the description, and
its answer, plain JSON, the result: no screen's message, no HTML. Files are answered as links, and endpoints that take a
file take such a link.
"""

from __future__ import annotations

import functools
import html
import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal
from urllib.parse import unquote

import gradio as gr
from gradio.context import Context
from gradio.route_utils import get_root_url
from gradio.utils import get_function_description, get_function_params

from app.server.folder import VARIABLE
from app.server.gateway.routes import API
from app.server.guard import guarded
from app.server.limits import Refused
from app.strings.language import texts

FILE = f"{API}/file="
NO_TAGS = str.maketrans("<>", "‹›")  # a value may be a stranger's, and a program may show the refusal on a page


def endpoint(
    handler: Callable[..., Any],
    name: str,
    *,
    choices: Mapping[str, Sequence[str]] | None = None,
    defaults: Mapping[str, Any] | None = None,
    group: str | None = None,
    at_once: int = 1,
) -> None:
    """Offer a handler as endpoint and tool `name`. choices, defaults: of parameters that are known at start only.

    group: of the queue, for a handler that runs a model; `at_once` of them run.
    """
    page: Any = Context.root_block
    waits: dict[str, Any] = {"concurrency_id": group, "concurrency_limit": at_once} if group else {}
    gr.api(answering(handler, name, choices or {}, defaults or {}), api_name=name, **waits)
    made = page.fns[max(page.fns)]
    _, about, _ = get_function_description(handler)
    for component, (parameter, *_) in zip(made.inputs, get_function_params(made.fn), strict=True):
        component.label = parameter
        component._api_info["additional_description"] = about[parameter]
    for component in made.outputs:
        component.label = "answer"


def answering(
    handler: Callable[..., Any], name: str, choices: Mapping[str, Sequence[str]], defaults: Mapping[str, Any]
) -> Callable[..., Any]:
    """The handler under the tool's name. A refusal is text here, not the HTML of a toast; a tag in it is none."""
    checked = guarded(handler)

    @functools.wraps(handler)
    def answer(*args: Any, **kwargs: Any) -> Any:
        try:
            return checked(*args, **kwargs)
        except gr.Error as error:
            error.message = html.unescape(error.message).translate(NO_TAGS)
            raise

    signature = inspect.signature(handler, eval_str=True)
    types = {one.name: one.annotation for one in signature.parameters.values()}
    for parameter, values in choices.items():
        one_of: Any = Literal[tuple(values)]
        types[parameter] = list[one_of] if types[parameter] == list[str] else one_of
    parameters = [
        one.replace(annotation=types[one.name], default=defaults.get(one.name, one.default))
        for one in signature.parameters.values()
    ]
    answer.__name__ = name
    answer.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore[reportAttributeAccessIssue]
    answer.__annotations__ = types | {"return": signature.return_annotation}
    return answer


def asking(request: gr.Request | None) -> Any:
    """The request of a handler of the page; without one, a caller without a session."""
    return request or SimpleNamespace(session_hash=None)


def link_to(file: str | Path, request: gr.Request | None) -> str:
    """The link to a copy of a file in the app's own folder, where it is kept for an hour."""
    kept = Path(tempfile.mkdtemp(prefix="answer-", dir=os.environ[VARIABLE])) / Path(file).name
    shutil.copyfile(file, kept)
    asked: Any = getattr(request, "request", None)
    if asked is None:
        return f"{FILE}{kept}"
    return f"{get_root_url(asked, asked.url.path, asked.app.get_blocks().root_path)}{FILE}{kept}"


def linked_file(given: Any) -> str:
    """The file behind a link of `link_to`, or the path of an upload. Raises Refused for any other value."""
    path = given.get("path") if isinstance(given, dict) else given
    if not isinstance(path, str) or len(path) > 2000:
        raise Refused(texts.NO_FILE)
    file = Path(unquote(path.partition(FILE)[2]) if FILE in path else path)
    home = Path(os.environ[VARIABLE]).resolve()
    if "\0" in str(file) or home not in file.resolve().parents:
        raise Refused(texts.NO_FILE)
    return str(file)


def use_json(server: Any) -> None:
    """Let Gradio's MCP server answer with JSON; its own answer is Python's notation of the value."""

    def contents(data: Sequence[Any], root_url: str) -> list[Any]:
        texts_of = (one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in data)
        return [server.types.TextContent(type="text", text=text) for text in texts_of]

    server.postprocess_output_data = contents

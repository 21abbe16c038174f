"""Models of the Hugging Face Hub: fetched into huggingface_hub's cache, and only when somebody names one.

An id is `owner/name`. What is on this machine goes first: neither a folder of that name, nor a path whose first part
is a folder here (`runs/mine`, mistyped), is ever asked of the network. Of a repository only the kinds of file that a
checkpoint is made of are fetched, so never a pickle and never code. What was fetched before is used without a network.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def is_hub_id(name: str | Path) -> bool:
    """Whether `name` has the form of a Hub id and is no path of this machine."""
    owner = str(name).partition("/")[0]
    return isinstance(name, str) and bool(_ID.fullmatch(name)) and not Path(owner).exists()


def fetch(name: str, files: Sequence[str], **options: Any) -> Path:
    """The folder that holds those of a repository's files that match the patterns `files`.

    options: revision, token, cache_dir, force_download and local_files_only of huggingface_hub's snapshot_download.
    Raises FileNotFoundError where there is no such model or revision, or it is private; ConnectionError where neither
    the Hub nor an earlier copy can be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(files), **options))
    except RepositoryNotFoundError:  # private and gated ones too
        raise FileNotFoundError(
            f"no checkpoint {name!r}: not a folder, not bundled, and the Hub shows no such model "
            "(for a private one: `hf auth login`)"
        ) from None
    except RevisionNotFoundError:
        raise FileNotFoundError(f"{name!r} has no revision {options.get('revision')!r} on the Hub") from None
    except HFValidationError as error:
        raise ValueError(f"{name!r} is no id of the Hub: {error}") from None
    except (
        Exception
    ) as error:  # the library raises a dozen kinds: no network, a proxy, offline without a copy, ...
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConnectionError(
            f"{name!r} is neither a folder nor bundled, and cannot be fetched from the Hub: {reason}"
        ) from error


def file_names(name: str, **options: Any) -> list[str]:
    """Names of a repository's files; none where the Hub does not say. options: revision and token."""
    from huggingface_hub import HfApi

    try:
        return HfApi().list_repo_files(name, **options)
    except Exception:  # see fetch; this is asked only to word an error better
        return []

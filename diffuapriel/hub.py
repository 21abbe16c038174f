"""Download models from the Hugging Face Hub into huggingface_hub's cache, only when a model's id is given.

An id is `owner/name`. Local files have priority: neither an existing folder of that name, nor a path whose first part
is an existing folder (a mistyped `runs/mine`), is looked up on the network. Only the file types of a checkpoint are
downloaded, never a pickle and never code. What was downloaded before works offline.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def is_hub_id(name: str | Path) -> bool:
    """Whether `name` has the form of a Hub id and is not a local path."""
    owner = str(name).partition("/")[0]
    return isinstance(name, str) and bool(_ID.fullmatch(name)) and not Path(owner).exists()


def fetch(name: str, files: Sequence[str], **options: Any) -> Path:
    """Download the files of a repository that match the patterns `files`; returns their folder.

    options: revision, token, cache_dir, force_download and local_files_only of huggingface_hub's snapshot_download.
    Raises FileNotFoundError if there is no such model or revision or it is private, ConnectionError if neither the Hub
    nor a cached copy is available.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(files), **options))
    except RepositoryNotFoundError:  # private and gated ones too
        raise FileNotFoundError(
            f"no checkpoint {name!r}: not a folder, not bundled, and the Hub has no such public model "
            "(for a private one: `hf auth login`)"
        ) from None
    except RevisionNotFoundError:
        raise FileNotFoundError(f"{name!r} has no revision {options.get('revision')!r} on the Hub") from None
    except HFValidationError as error:
        raise ValueError(f"{name!r} is not a valid Hub id: {error}") from None
    except Exception as error:  # a dozen kinds: no network, a proxy, offline without a cached copy, ...
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConnectionError(
            f"{name!r} is neither a folder nor bundled, and cannot be downloaded from the Hub: {reason}"
        ) from error


def file_names(name: str, **options: Any) -> list[str]:
    """Names of a repository's files; empty if the Hub does not answer. options: revision and token."""
    from huggingface_hub import HfApi

    try:
        return HfApi().list_repo_files(name, **options)
    except Exception:  # only used to make an error more precise
        return []

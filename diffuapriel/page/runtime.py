"""onnxruntime-web from the npm registry: one pinned package, checked by its SHA-512, kept in the user's cache.

No Node is needed: the package is a tar file. Its address is the registry's, or that of a mirror in the environment
variable NPM_CONFIG_REGISTRY. A folder that holds the files already, e.g. node_modules/onnxruntime-web/dist, can be
named instead.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tarfile
import urllib.request
from pathlib import Path

VERSION = "1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
REGISTRY = "https://registry.npmjs.org"
# The build for each backend: its script and its binary. The second one has WebGPU, and needs JSPI of the browser.
BUILDS = {
    "wasm": ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": ("ort.jspi.bundle.min.mjs", "ort-wasm-simd-threaded.jspi.wasm"),
}
LICENSE = f"""onnxruntime-web {VERSION}

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without
limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the
Software, and to permit persons to whom the Software is furnished to do so, subject to the following
conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions
of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED
TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL
THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF
CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER
DEALINGS IN THE SOFTWARE."""


def cache_folder() -> Path:
    """Where fetched and exported files are kept: diffuapriel in XDG_CACHE_HOME, by default ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffuapriel"


def find_runtime(folder: Path | None = None) -> Path | None:
    """The folder that holds the files of every build, the named one or the cache's; None where they are missing."""
    folder = folder or cache_folder() / f"onnxruntime-web-{VERSION}"
    return folder if all((folder / name).is_file() for build in BUILDS.values() for name in build) else None


def fetch_runtime() -> Path:
    """The folder of the cache with the files; fetches them where they are missing (33 MB).

    Raises OSError where the registry cannot be reached, and ValueError for a package with another SHA-512.
    """
    if found := find_runtime():
        return found
    registry = os.environ.get("NPM_CONFIG_REGISTRY", REGISTRY).rstrip("/")
    address = f"{registry}/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            packed = answer.read()
    except OSError as error:
        raise OSError(
            f"{address} cannot be fetched ({error}); name a folder with the files of onnxruntime-web {VERSION} "
            "by --runtime"
        ) from error
    digest = base64.b64encode(hashlib.sha512(packed).digest()).decode()
    if digest != SHA512:
        raise ValueError(f"{address} has the SHA-512 {digest}, not {SHA512}; fetch it from another registry")
    folder = cache_folder() / f"onnxruntime-web-{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for name in {name for build in BUILDS.values() for name in build}:
            stream = archive.extractfile(f"package/dist/{name}")
            assert stream is not None, f"{name} is a file"
            part = folder / f"{name}.part"
            part.write_bytes(stream.read())
            part.replace(folder / name)
    return folder

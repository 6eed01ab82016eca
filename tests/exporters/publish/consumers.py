"""Run lines of code in the environments of other programs, and compare their vectors."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.array_types import Array
from runtime.artifact.parity import row_cosines
from tests.docs.pages import DOCS, blocks
from tests.paths import ROOT
from tests.ports import free_port

CONSUMERS = Path(os.environ.get("CONSUMERS", ROOT / "build/consumers"))
MIN_COSINE = 0.99999
_PYTHON = """\
import json
from pathlib import Path
texts, photos = json.loads(Path("items.json").read_text("utf-8"))
{code}
import numpy as np
np.save("vectors.npy", np.asarray(vectors, np.float32))
"""
_NODE = """\
import {{ readFileSync, writeFileSync }} from "node:fs";
const [texts, photos] = JSON.parse(readFileSync("items.json"));
{code}
writeFileSync("vectors.json", JSON.stringify({result}));
"""
_PAGE = """\
<script type="importmap">{{"imports": {{"@huggingface/transformers": "/node_modules/@huggingface/transformers/dist/\
transformers.js"}}}}</script>
<script type="module">
try {{
  const [texts, photos] = await (await fetch("/items.json")).json();
  {imports}
  env.backends.onnx.wasm.wasmPaths = "/node_modules/onnxruntime-web/dist/";
  {code}
  await fetch("/vectors.json", {{ method: "POST", body: JSON.stringify({result}) }});
}} catch (error) {{
  await fetch("/vectors.json", {{ method: "POST", body: JSON.stringify(String(error.stack)) }});
}}
</script>
"""


def find_code(marker: str) -> str:
    """Return the only block of docs/elsewhere.md that contains ``marker``."""
    (code,) = [block.code for block in blocks(DOCS / "elsewhere.md") if marker in block.code]
    return code


def find_python(consumer: str) -> Path:
    """Return the interpreter of a consumer's environment, or skip the test."""
    python = CONSUMERS / consumer / "bin/python"
    if not python.exists():
        pytest.skip(f"needs {python}; `make consumers` makes it")
    return python


def run_python(consumer: str, code: str, place: Path) -> Array:
    """Run lines of Python in the environment of a consumer, and return the array that they call ``vectors``."""
    python = find_python(consumer)
    (place / "lines.py").write_text(_PYTHON.format(code=code), "utf-8")
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": ""}
    run([str(python), "lines.py"], place, offline)
    vectors: Array = np.load(place / "vectors.npy")
    return vectors


def run_node(code: str, place: Path, result: str = "vectors") -> Array:
    """Run lines of JavaScript in Node, and return ``result``."""
    modules = CONSUMERS / "transformers-js/node_modules"
    if not modules.is_dir() or shutil.which("node") is None:
        pytest.skip(f"needs node and {modules}; `make consumers` makes it")
    if not (place / "node_modules").exists():
        (place / "node_modules").symlink_to(modules)
    (place / "lines.mjs").write_text(_NODE.format(code=code, result=result), "utf-8")
    run(["node", "lines.mjs"], place, {})
    return np.array(json.loads((place / "vectors.json").read_text()))


def hold(expected: Array, actual: Array, *, name: str, floor: float = MIN_COSINE) -> None:
    """Check the cosine similarities, and print the smallest one."""
    cosines = row_cosines(expected, actual)
    print(f"{name}: {len(cosines)} items, worst cosine 1 - {1 - cosines.min():.2e}")
    assert cosines.min() >= floor


@contextmanager
def triton_server(python: Path, place: Path, model: str) -> Iterator[str]:
    """Run Triton's server with one model, and yield its address."""
    code = "import sysconfig as s; print(s.get_path('purelib'), s.get_config_var('LIBDIR'), s.get_python_version())"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    packages, libraries, version = done.stdout.split()
    server, backends = Path(packages, "pytriton/tritonserver"), place / "backends"
    shutil.copytree(server / "backends", backends, dirs_exist_ok=True)
    shutil.copy(server / f"python_backend_stubs/{version}/triton_python_backend_stub", backends / "python")
    port = free_port()
    command = [
        *(str(server / "bin/tritonserver"), f"--model-repository={place / 'published/triton'}"),
        *("--model-control-mode=explicit", f"--load-model={model}", f"--backend-directory={backends}"),
        *("--http-address=127.0.0.1", f"--http-port={port}", "--allow-grpc=false", "--allow-metrics=false"),
    ]
    environment = os.environ | {
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",  # the stub looks for its packages beside python3
        "LD_LIBRARY_PATH": f"{packages}/nvidia_pytriton.libs{os.pathsep}{libraries}",
    }
    with (place / "triton.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            _wait_for_port(port, process, place / "triton.log")
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def _wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(120):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return  # it listens after it has loaded its models
        assert process.poll() is None, log.read_text()[-3000:]
        threading.Event().wait(0.5)
    raise TimeoutError(log.read_text()[-3000:])


def run(command: Sequence[str], place: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        command, cwd=place, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


class _Handler(http.server.SimpleHTTPRequestHandler):
    posted: list[str]

    def do_POST(self) -> None:
        self.posted.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@contextmanager
def _serving(place: Path) -> Iterator[tuple[int, list[str]]]:
    """Serve the files of ``place`` on this machine, and yield the port and the list of posted bodies."""
    posted: list[str] = []
    handler = type("Handler", (_Handler,), {"posted": posted})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(place))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1], posted
        finally:
            server.shutdown()
            thread.join()


def run_in_browser(browser: str, code: str, place: Path) -> Array:
    """Run lines of JavaScript in a page, and return ``vectors``."""
    run_node("const vectors = [];", place)  # skips without the package, and links it
    imports, _, rest = code.partition("\n")
    imported = imports.replace("import {", "const {").replace(' from "', ' = await import("').replace('";', '");')
    page = _PAGE.format(imports=imported, code=rest, result="vectors")
    (place / "page.html").write_text(page.replace('localModelPath = "', 'localModelPath = "/'), "utf-8")
    with _serving(place) as (port, posted):
        flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={place / 'chromium'}"]
        process = subprocess.Popen(
            [browser, *flags, f"http://127.0.0.1:{port}/page.html"],
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            for _ in range(600):
                if posted or process.poll() is not None:
                    break
                threading.Event().wait(0.5)
        finally:
            process.terminate()
            process.wait(10)
    assert posted, "the page has sent nothing"
    answer = json.loads(posted[0])
    assert not isinstance(answer, str), answer
    return np.array(answer)

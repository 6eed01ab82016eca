"""The pages in headless Chromium, by the pipe of its DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import runtime
from tests.runtime.server.conftest import Running
from tests.runtime.server.test_openai_api import png

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None or sys.platform == "win32", reason="needs Chromium, and its pipe")


class Browser:
    """A page of Chromium. Messages are JSON, each with a zero byte behind it."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = os.fdopen(commands, "wb"), os.fdopen(answers, "rb")
        self._number, self._rest, self.requests = 0, b"", list[str]()
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})
        self._session = {"sessionId": attached["sessionId"]}
        self.call("Network.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        return self._call(method, parameters, **self._session)

    def evaluate(self, script: str) -> Any:
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def close(self) -> None:
        self._call("Browser.close", {})
        self._commands.close()
        self._answers.close()

    def _call(self, method: str, parameters: dict[str, Any], **session: str) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **session}
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while True:
            answer = self._read()
            if answer.get("method") == "Network.requestWillBeSent":
                self.requests.append(answer["params"]["request"]["url"])
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._answers.fileno(), 1 << 16)
            assert part, "Chromium ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    (commands_out, commands_in), (answers_out, answers_in) = os.pipe(), os.pipe()
    # Chromium reads from 3 and writes to 4; the shell moves the ends of the pipes there.
    script = f'exec "$@" 3<&{commands_out} 4>&{answers_in}'
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={tmp_path}"]
    command = ["bash", "-c", script, "bash", str(CHROMIUM), *options]
    with subprocess.Popen(command, pass_fds=(commands_out, answers_in), stderr=subprocess.DEVNULL) as process:
        os.close(commands_out)
        os.close(answers_in)
        browser = Browser(commands_in, answers_out)
        yield browser
        browser.close()
        process.wait(20)


WAIT = "await new Promise(done => setTimeout(done, 20));"
COMPARE = f"""(async () => {{
  while (!find("model").options.length) {WAIT}
  find("texts").value = "a\\n\\nb c d";
  const bytes = Uint8Array.from(atob(DATA), letter => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "grey.png", {{type: "image/png"}}));
  find("images").dispatchEvent(new DragEvent("drop", {{dataTransfer: transfer, cancelable: true}}));
  while (!find("thumbs").children.length) {WAIT}
  find("compare").click();
  while (!find("table").rows.length && !find("message").classList.contains("error")) {WAIT}
  return [find("message").textContent, ...[...find("table").rows].map(row => [...row.cells].map(cell =>
    cell.textContent + (cell.className ? "!" : "")))];
}})()"""


@NEEDS_CHROMIUM
@pytest.mark.process
def test_texts_and_images_are_compared_on_the_page(
    browser: Browser, server: Running, model: runtime.Embedder, tmp_path: Path
) -> None:
    browser.call("Page.navigate", url=f"{server.url}/")
    data = json.dumps(base64.b64encode(png(99)).decode())
    browser.evaluate("new Promise(done => document.readyState === 'complete' ? done() : (window.onload = done))")
    message, head, *rows = browser.evaluate(COMPARE.replace("DATA", data))
    assert message.startswith("3 items, 4 dimensions")
    vectors = model.embed(["a", "b c d", png(99)])
    expected = model.similarity(vectors, vectors)
    assert head == ["", "a", "b c d", ""]
    assert [[float(cell.strip("!")) for cell in row[1:]] for row in rows] == pytest.approx(expected, abs=6e-4)
    for at, row in enumerate(rows):
        nearest = max(set(range(3)) - {at}, key=lambda other: expected[at][other])
        assert [cell.endswith("!") for cell in row[1:]] == [other == nearest for other in range(3)]
    assert browser.requests
    assert all(url.startswith((server.url, "data:")) for url in browser.requests)
    (tmp_path / "page.png").write_bytes(base64.b64decode(browser.call("Page.captureScreenshot")["data"]))


CHOOSE = f"""(async () => {{
  while (!find("model").options.length) {WAIT}
  const read = FileReader.prototype.readAsDataURL;
  FileReader.prototype.readAsDataURL = function (file) {{
    if (file.name === "folder") setTimeout(() => this.dispatchEvent(new Event("loadend")));
    else read.call(this, file);
  }};
  const transfer = new DataTransfer();
  for (const name of ["folder", "a.png"]) transfer.items.add(new File(["a"], name));
  find("files").files = transfer.files;
  find("files").dispatchEvent(new Event("change"));
  for (let tries = 0; tries < 500 && !find("thumbs").children.length; tries++) {WAIT}
  return [find("message").textContent, find("thumbs").children.length, find("files").files.length];
}})()"""


@NEEDS_CHROMIUM
@pytest.mark.process
def test_a_file_that_cannot_be_read_is_named_and_leaves_the_others(browser: Browser, server: Running) -> None:
    browser.call("Page.navigate", url=f"{server.url}/")
    browser.evaluate("new Promise(done => document.readyState === 'complete' ? done() : (window.onload = done))")
    assert browser.evaluate(CHOOSE) == ["folder cannot be read", 1, 0]


@NEEDS_CHROMIUM
@pytest.mark.process
def test_docs_show_every_path(browser: Browser, server: Running) -> None:
    browser.call("Page.navigate", url=f"{server.url}/docs")
    script = f"(async () => {{ while (!document.querySelector('details')) {WAIT} return document.body.innerText; }})()"
    browser.evaluate("new Promise(done => document.readyState === 'complete' ? done() : (window.onload = done))")
    shown = browser.evaluate(script)
    assert all(path in shown for path in server.get("/openapi.json").json()["paths"])


def test_pages_take_nothing_from_elsewhere(server: Running) -> None:
    for path in ("/", "/docs"):
        page = server.get(path)
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert "http" not in page.text.replace("http-equiv", "")

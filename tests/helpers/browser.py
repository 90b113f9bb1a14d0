"""A headless browser, driven through a pipe (Chrome DevTools Protocol)."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
]
# The browser reads commands from descriptor 3 and answers on 4.
_LAUNCHER = """
import os, sys
read, write = (os.dup(int(x)) for x in sys.argv[1:3])
for old, new in ((read, 3), (write, 4)):
    os.dup2(old, new)
    os.set_inheritable(new, True)
os.execv(sys.argv[3], sys.argv[3:])
"""
_PATIENCE = 60  # seconds


class Tab:
    """A page in a browser.

    Attributes:
        events: those received so far, as (method, parameters).
    """

    def __init__(self, commands, answers):
        self._commands = commands
        self._answers = answers
        self._number = 0
        self._session = None
        self.events = []

    def attach(self):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """Sends a command and returns its result."""
        self._number += 1
        message = dict(id=self._number, method=method, params=parameters)
        if self._session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _read(self):
        text = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "the browser ended"
            text += byte
        answer = json.loads(text)
        if "method" in answer:
            self.events.append((answer["method"], answer["params"]))
        return answer

    def run(self, script):
        """The value of a JavaScript expression; a promise is awaited."""
        done = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def wait(self, script):
        """Waits until an expression is true."""
        end = time.monotonic() + _PATIENCE
        while not self.run(script):
            assert time.monotonic() < end, script
            time.sleep(0.02)

    def open(self, address):
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'")

    def key(self, key, text=None):
        """Presses a key, such as "j", "Enter" or "ArrowDown"."""
        text = key if text is None and len(key) == 1 else text
        text = "\r" if key == "Enter" else text
        codes = {"Enter": 13, "Escape": 27, "ArrowDown": 40, "ArrowUp": 38, "Tab": 9}
        code = codes.get(key, ord(key.upper()) if len(key) == 1 else 0)
        given = dict(key=key, windowsVirtualKeyCode=code)
        self.call(
            "Input.dispatchKeyEvent", type="keyDown", **given, **(dict(text=text) if text else {})
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", **given)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def click(self, selector):
        """Clicks the middle of an element with the mouse."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def size(self, width, height, dark=False):
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 700,
        )
        scheme = dict(name="prefers-color-scheme", value="dark" if dark else "light")
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path, **options):
        data = self.call("Page.captureScreenshot", format="png", **options)["data"]
        path.write_bytes(base64.b64decode(data))


@contextlib.contextmanager
def browser(folder):
    """A tab of a new browser; its profile and downloads go below `folder`."""
    read, commands = os.pipe()
    answers, write = os.pipe()
    call = [sys.executable, "-c", _LAUNCHER, str(read), str(write), BROWSER, *_FLAGS]
    with (
        open(commands, "wb") as out,
        open(answers, "rb", buffering=0) as into,
        open(folder / "browser.log", "w") as log,
    ):
        process = subprocess.Popen(
            [*call, f"--user-data-dir={folder / 'profile'}"],
            pass_fds=(read, write),
            stdout=log,
            stderr=log,
        )
        os.close(read)
        os.close(write)
        try:
            tab = Tab(out, into)
            (folder / "downloads").mkdir()
            tab.call(
                "Browser.setDownloadBehavior",
                behavior="allow",
                downloadPath=str(folder / "downloads"),
            )
            tab.attach()
            yield tab
            tab.call("Browser.close")
        finally:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

#!/bin/sh
# flwr 1.42.0: if a run ends while a SuperNode receives a message of it, the SuperNode is one reply behind from then on.
#
# `_pull_and_store_message` in flwr/supernode/start_client_internal.py creates a task for the ClientApp and stores the
# message. Then it pulls the objects of the message and confirms it. If this fails, it deletes the message and ends the
# task, but only after an `Exception`. If the run has ended, the SuperLink refuses the call, and the call raises
# `RunNotRunningException`, which is a `BaseException`. The task remains, and the ClientApp replies. The SuperNode does
# not wait for this reply, because it ignores the message. After the next message, `_push_messages` waits for any reply,
# and finds the old one. From then on, the reply to each message is sent only after the next message was received, until
# the SuperNode is restarted.
#
# A review comment on https://github.com/flwrlabs/flower/pull/7079 warned that the task remains after a failure at this
# point. Version 1.42.0 ends the task after other failures.
#
# Here, a proxy between SuperNode and SuperLink delays the confirmation of message A until `flwr stop` has ended the
# run. Then, a second run sends message B, and message C once B is answered or 20 s have passed. Expected: the SuperNode
# sends the reply to B before it receives C, and then the reply to C. Observed: it sends the reply to A after it has
# received B, the reply to B after it has received C, and no reply to C within 20 s.
# Takes two minutes. Exits with 1 if the result changes, and with 2 if flwr cannot be installed or does not start.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder" flwr==1.42.0 || exit 2
mkdir -p "$folder/home" "$folder/app/behind"
cat >"$folder/app/pyproject.toml" <<TOML
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "behind"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []
[tool.hatch.build.targets.wheel]
packages = ["."]
[tool.flwr.app]
publisher = "findings"
[tool.flwr.app.components]
serverapp = "behind.server:app"
clientapp = "behind.client:app"
[tool.flwr.app.config]
folder = "$folder"
messages = "A"
patience_s = 600
TOML
touch "$folder/app/behind/__init__.py"
cat >"$folder/app/behind/client.py" <<'PYTHON'
from pathlib import Path

from flwr.app import Message
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def query(message, context):
    (Path(str(context.run_config["folder"])) / f"{message.content['config']['name']}.processed").touch()
    return Message(message.content, reply_to=message)
PYTHON
cat >"$folder/app/behind/server.py" <<'PYTHON'
import json
import time
from pathlib import Path

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    folder = Path(str(context.run_config["folder"]))
    (node_id,) = grid.get_node_ids()
    names = {}
    outcomes = {}  # for each message, the messages that were answered before the next one was sent
    for name in str(context.run_config["messages"]):
        content = RecordDict({"config": ConfigRecord({"name": name})})
        message = Message(content, dst_node_id=node_id, message_type=MessageType.QUERY)
        (message_id,) = grid.push_messages([message])
        names[message_id] = name
        outcomes[name] = []
        sent_at = time.monotonic()
        while message_id in names and time.monotonic() - sent_at < float(context.run_config["patience_s"]):
            for reply in grid.pull_messages(list(names)):
                outcomes[name].append(names.pop(reply.metadata.reply_to_message_id))
            time.sleep(0.5)
    (folder / "outcomes.part").write_text(json.dumps(outcomes))
    (folder / "outcomes.part").rename(folder / "outcomes")
PYTHON
export FLWR_HOME="$folder/home" FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
export PYTHONPATH="$folder" PATH="$folder/bin:$PATH"
python3 - "$folder" <<'PYTHON'
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import httpx
from flwr.proto.fleet_pb2 import PullMessagesResponse, PushMessagesRequest

folder = Path(sys.argv[1])
started = []
received = []  # ids of the messages that the SuperNode received, in this order
events = []
confirming, ended = threading.Event(), threading.Event()


def name_of(message_id):
    return "ABCDEFGH"[received.index(message_id)]


class Proxy(BaseHTTPRequestHandler):
    """Forwards the calls of the SuperNode, but delays each confirmation until the first run has ended."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path.endswith("/confirm-message-received"):
            confirming.set()
            ended.wait()
        elif self.path.endswith("/push-messages"):
            for message in PushMessagesRequest.FromString(body).messages_list:
                events.append(f"sent the reply to {name_of(message.metadata.reply_to_message_id)}")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        url = f"http://127.0.0.1:{superlink_port}{self.path}"
        response = httpx.post(url, content=body, headers=headers, timeout=60)
        if self.path.endswith("/pull-messages") and response.is_success:
            for message in PullMessagesResponse.FromString(response.content).messages_list:
                received.append(message.metadata.message_id)
                events.append(f"received {name_of(received[-1])}")
        self.send_response(response.status_code)
        self.send_header("content-type", response.headers.get("content-type", "application/octet-stream"))
        self.send_header("content-length", str(len(response.content)))
        self.end_headers()
        self.wfile.write(response.content)

    def log_message(self, *arguments):
        pass


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def start(*command):
    with (folder / f"{command[0]}.log").open("wb") as log:
        started.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))


def wait_for(condition, seconds=120):
    for _ in range(5 * seconds):
        if condition():
            return
        time.sleep(0.2)
    logs = "\n".join(log.read_text()[-3000:] for log in folder.glob("*.log"))
    print(f"nothing happened for {seconds} s:\n{logs}", file=sys.stderr)
    sys.exit(2)


def is_ready():
    try:
        return httpx.get(f"http://127.0.0.1:{superlink_port}/health").is_success
    except httpx.TransportError:
        return False


def flwr(*arguments):
    return json.loads(subprocess.check_output(["flwr", *arguments, "--format", "json"]))


try:
    superlink_port = free_port()
    start(
        "flower-superlink",
        "--insecure",
        "--host=127.0.0.1",
        f"--port={superlink_port}",
        "--disable-runtime-dependency-installation",
    )
    wait_for(is_ready)
    (folder / "home/config.toml").write_text(
        f'[superlink]\ndefault = "local"\n[superlink.local]\naddress = "127.0.0.1:{superlink_port}"\ninsecure = true\n'
    )
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    start(
        "flower-supernode",
        "--insecure",
        f"--superlink=127.0.0.1:{proxy.server_port}",
        "--host=127.0.0.1",
        f"--port={free_port()}",
    )
    wait_for(lambda: "SuperNode ID" in (folder / "flower-supernode.log").read_text())
    run_id = flwr("run", f"{folder}/app", "local")["run-id"]
    wait_for(confirming.is_set)
    flwr("stop", str(run_id), "local")
    ended.set()
    for _ in range(300):  # for up to 60 s, because no app should process A
        if (folder / "A.processed").exists():
            break
        time.sleep(0.2)
    flwr("run", f"{folder}/app", "local", "--run-config", 'messages="BC" patience_s=20')
    wait_for((folder / "outcomes").exists)
    outcomes = json.loads((folder / "outcomes").read_text())
    print("flwr", version("flwr"), "SuperNode:", ", ".join(events))
    print("messages answered before the next one was sent:", outcomes)
    behind = ["received A", "received B", "sent the reply to A", "received C", "sent the reply to B"]
    sys.exit(not (events == behind and outcomes == {"B": [], "C": ["B"]}))
finally:
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
PYTHON

#!/bin/sh
# flwr 1.42.0: a SuperNode that is restarted while it works on a message never gets the message again.
#
# A SuperLink marks a message as delivered when a SuperNode fetches it, and never clears this mark. If the SuperNode is
# stopped (SIGTERM) before it replies, and started again with the same key, then the message waits for nobody. The
# SuperLink returns an error only if the ServerApp asks for replies while the node is offline. If the ServerApp asks
# before and after, it gets neither reply nor error until the message expires, after 12 hours by default.
#
# Expected: the restarted node gets the message again, or the ServerApp gets an error. Observed: the node, which keeps
# its id, receives and answers a second message. The first message is delivered once, and there is neither reply nor
# error for 30 s.
# Takes about 90 s. Exits with 1 if the result changes, and with 2 if openssl or ssh-keygen is missing.
set -eu
for program in openssl ssh-keygen; do
    command -v "$program" >/dev/null || { echo "install $program" >&2; exit 2; }
done
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder" flwr==1.42.0
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
    -addext subjectAltName=IP:127.0.0.1 -addext keyUsage=digitalSignature,keyCertSign \
    -keyout "$folder/tls.key" -out "$folder/tls.pem" 2>/dev/null
ssh-keygen -q -t ecdsa -b 384 -N "" -f "$folder/node"
mkdir -p "$folder/home" "$folder/app/restart"
cat >"$folder/app/pyproject.toml" <<TOML
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "restart"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []
[tool.hatch.build.targets.wheel]
packages = ["."]
[tool.flwr.app]
publisher = "findings"
[tool.flwr.app.components]
serverapp = "restart.server:app"
clientapp = "restart.client:app"
[tool.flwr.app.config]
folder = "$folder"
TOML
touch "$folder/app/restart/__init__.py"
cat >"$folder/app/restart/client.py" <<'PYTHON'
import time
from pathlib import Path

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def query(message, context):
    folder = Path(str(context.run_config["folder"]))
    name = message.content["config"]["name"]
    with (folder / "received").open("a") as file:
        print(name, context.node_id, file=file)
    while name == "first" and not (folder / "restarted").exists():
        time.sleep(0.1)
    return Message(RecordDict({"config": ConfigRecord({"name": name})}), reply_to=message)
PYTHON
cat >"$folder/app/restart/server.py" <<'PYTHON'
import json
import time
from pathlib import Path

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    folder = Path(str(context.run_config["folder"]))

    def send(name):
        (node_id,) = grid.get_node_ids()
        content = RecordDict({"config": ConfigRecord({"name": name})})
        (message_id,) = grid.push_messages([Message(content, dst_node_id=node_id, message_type=MessageType.QUERY)])
        return message_id

    names = {send("first"): "first"}
    while not (folder / "restarted").exists():
        time.sleep(0.1)
    names[send("second")] = "second"
    outcomes = {"first": "nothing", "second": "nothing"}
    answered_at = None
    # Until 30 s after the answer to the second message.
    while answered_at is None or time.monotonic() - answered_at < 30:
        for reply in grid.pull_messages(list(names)):
            name = names.pop(reply.metadata.reply_to_message_id)
            outcomes[name] = f"error {reply.error.code}" if reply.has_error() else "reply"
            if name == "second":
                answered_at = time.monotonic()
        if not names:
            break
        time.sleep(1)
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
import ssl
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import httpx

folder = Path(sys.argv[1])
started = []


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def start(*command):
    with (folder / f"{command[0]}.log").open("wb") as log:
        started.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
    return started[-1]


def wait_for(condition, seconds=120):
    for _ in range(5 * seconds):
        if condition():
            return
        time.sleep(0.2)
    logs = "\n".join(log.read_text()[-3000:] for log in folder.glob("*.log"))
    sys.exit(f"nothing happened for {seconds} s:\n{logs}")


def is_ready():
    try:
        return httpx.get(f"https://127.0.0.1:{superlink_port}/health", verify=trust).is_success
    except httpx.TransportError:
        return False


def start_node():
    node = start(
        "flower-supernode",
        f"--superlink=127.0.0.1:{superlink_port}",
        f"--root-certificates={folder}/tls.pem",
        f"--auth-supernode-private-key={folder}/node",
        "--host=127.0.0.1",
        f"--port={free_port()}",
    )
    wait_for(lambda: "SuperNode ID" in (folder / "flower-supernode.log").read_text())
    return node


try:
    superlink_port = free_port()
    trust = ssl.create_default_context(cafile=f"{folder}/tls.pem")
    start(
        "flower-superlink",
        "--host=127.0.0.1",
        f"--port={superlink_port}",
        f"--ssl-ca-certfile={folder}/tls.pem",
        f"--ssl-certfile={folder}/tls.pem",
        f"--ssl-keyfile={folder}/tls.key",
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
    )
    wait_for(is_ready)
    (folder / "home/config.toml").write_text(
        f'[superlink]\ndefault = "local"\n[superlink.local]\naddress = "127.0.0.1:{superlink_port}"\n'
        f'root-certificates = "{folder}/tls.pem"\n'
    )
    subprocess.run(["flwr", "supernode", "register", f"{folder}/node.pub", "local"], check=True, capture_output=True)
    node = start_node()
    subprocess.run(["flwr", "run", f"{folder}/app", "local"], check=True, capture_output=True)
    received = folder / "received"
    wait_for(received.exists)
    os.killpg(node.pid, signal.SIGTERM)  # as a service manager does
    node.wait()
    start_node()
    (folder / "restarted").touch()
    wait_for((folder / "outcomes").exists)
    outcomes = json.loads((folder / "outcomes").read_text())
    deliveries = received.read_text().split()
    print("flwr", version("flwr"), "deliveries:", deliveries[::2], "to", len(set(deliveries[1::2])), "node id")
    print("what the ServerApp got for each message:", outcomes)
    once = deliveries[::2] == ["first", "second"] and len(set(deliveries[1::2])) == 1
    sys.exit(not (once and outcomes == {"first": "nothing", "second": "reply"}))
finally:
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
PYTHON

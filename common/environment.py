"""The environment variables of this process, except those that Kubernetes or docker links set.

Kubernetes and docker links set variables that are named after services. For a service `deepseek-inference`, they set
`DEEPSEEK_INFERENCE_PORT=tcp://10.0.0.7:8001`, which looks like one of our settings. Such variables are recognized by
the forms of their names and values.
"""

import os
import re
from pathlib import Path

_LINK = r"_PORT(_\d+_(TCP|UDP|SCTP))?=(tcp|udp|sctp)://\S+:\d+|_NAME=/[^/]+/[^/]+"
"""Matches `<suffix>=<value>`, after a service's name, for variables that only Kubernetes or a docker link sets."""

_OF_LINK = re.compile(rf"{_LINK}|_SERVICE_HOST=\S+|_SERVICE_PORT(_\w+)?=\d+|_PORT_\d+_\w+=\S+|_ENV_\w+=.*", re.DOTALL)
"""Matches `<suffix>=<value>`, after a service's name, for all variables that Kubernetes or a docker link sets."""

_LINK_OF = re.compile(rf"(\w+?)({_LINK})")


def home() -> Path:
    """Returns the home directory of a mesh on this machine: `DEEPSEEK_HOME` if it is set, else `~/.deepseek`."""
    return Path(os.environ.get("DEEPSEEK_HOME") or Path.home() / ".deepseek").absolute()


def variables() -> dict[str, str]:
    """Returns the variables that neither Kubernetes nor a docker link has set."""
    lines = {name: f"{name}={value}" for name, value in os.environ.items()}
    services = {match[1] for line in lines.values() if (match := _LINK_OF.fullmatch(line))}
    return {
        name: os.environ[name]
        for name, line in lines.items()
        if not any(name.startswith(one) and _OF_LINK.fullmatch(line, len(one)) for one in services)
    }

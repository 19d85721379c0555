"""A node that answers at once, and always the same: for what a fleet costs its control node."""

from __future__ import annotations

DOCUMENTATION = """
name: simulated
short_description: Answer as a node has answered before
version_added: "0.1.0"
author: The envfleet.gpu_cluster authors (@envfleet)
description: Gives a look the answer in a file, which a real node has given before, and all else that of a ping.
extends_documentation_fragment:
  - connection_pipelining
options:
  look:
    description: The file with what a node has printed when it was looked at.
    type: path
    required: true
    vars:
      - name: simulated_look
  container:
    description: The container that is asked once where there is no such file yet.
    type: str
    vars:
      - name: simulated_container
  seconds:
    description: How long a node takes.
    type: float
    default: 0.2
    vars:
      - name: simulated_seconds
"""

import subprocess
import time
from pathlib import Path
from typing import Any

from ansible.plugins.connection import ConnectionBase
from ansible_collections.envfleet.gpu_cluster.plugins.module_utils._node._probe_child import MARK


class Connection(ConnectionBase):  # type: ignore[misc]  # ansible-core has no types
    """Takes commands, and no files: everything is piped."""

    transport = "simulated"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """Answer."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        if MARK.encode() in (in_data or b""):
            look = Path(self.get_option("look"))
            if not look.exists():
                command = ["podman", "exec", "-i", self.get_option("container"), "sh", "-c", cmd]
                look.write_bytes(subprocess.run(command, input=in_data, stdout=subprocess.PIPE, check=True).stdout)
            time.sleep(self.get_option("seconds"))
            return 0, look.read_bytes(), b""
        time.sleep(self.get_option("seconds"))
        return 0, b'{"changed": false, "ping": "pong", "invocation": {"module_args": {"data": "pong"}}}', b""

    def put_file(self, in_path: str, out_path: str) -> Any:
        """Refuse."""
        raise NotImplementedError

    def fetch_file(self, in_path: str, out_path: str) -> Any:
        """Refuse."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is open."""
        self._connected = False

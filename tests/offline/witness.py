"""Run a command in a network of its own, and record every name and address that it asks for.

    python -m tests.offline.witness REPORT.json COMMAND...

Linux only: the command runs in a new network namespace, where each address belongs to this machine
and each name has one, so that attempts are neither blocked nor answered from outside. Native code
is observed as well as Python. The report lists the names asked of the DNS server, and the addresses
other than loopback that packets were sent to.
"""

import contextlib
import ipaddress
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

DNS = ("127.0.0.1", 53)
ANSWER = "192.0.2.1"  # of every name: an address for documentation (RFC 5737)
SETUP = (
    "ip link set lo up",
    "ip route add local 0.0.0.0/0 dev lo",
    "ip -6 route add local ::/0 dev lo",
)
ETH_P_IP, ETH_P_IPV6, ETH_P_ALL = 0x0800, 0x86DD, 0x0003
A_RECORD = 1


def namespace() -> list[str]:
    """Return the prefix of a command that runs in its own namespaces; empty if there are none."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    prefix = ["unshare", *user, "--net", "--mount"]
    if not shutil.which("unshare") or not shutil.which("ip"):
        return []
    probe = [*prefix, "ip", "link", "set", "lo", "up"]
    return [] if subprocess.run(probe, capture_output=True, check=False).returncode else prefix


def watched(report: Path, *command: str) -> list[str]:
    """Return the command line that runs ``command`` and writes the report."""
    return [*namespace(), sys.executable, "-m", "tests.offline.witness", str(report), *command]


class Witness:
    """Answers DNS queries and reads every packet, on threads of its own."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.addresses: set[str] = set()

    def start(self) -> None:
        """Start both threads."""
        queries = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        queries.bind(DNS)
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        for work, given in ((self._answer, queries), (self._read, packets)):
            threading.Thread(target=work, args=(given,), daemon=True).start()

    def _answer(self, queries: socket.socket) -> None:
        while True:
            query, client = queries.recvfrom(4096)
            labels, place = [], 12  # after the header
            while size := query[place]:
                labels.append(query[place + 1 : place + 1 + size].decode("latin-1"))
                place += 1 + size
            self.names.add(".".join(labels))
            question = query[12 : place + 5]
            answers = b""
            if question[-4:-2] == struct.pack(">H", A_RECORD):
                answers = struct.pack(">HHHIH", 0xC00C, A_RECORD, 1, 60, 4)
                answers += socket.inet_aton(ANSWER)
            header = query[:2] + struct.pack(">HHHHH", 0x8180, 1, bool(answers), 0, 0)
            queries.sendto(header + question + answers, client)

    def _read(self, packets: socket.socket) -> None:
        while True:
            packet, place = packets.recvfrom(128)
            if place[1] == ETH_P_IP:
                address = ipaddress.ip_address(packet[16:20])
            elif place[1] == ETH_P_IPV6:
                address = ipaddress.ip_address(packet[24:40])
            else:
                continue
            if not (address.is_loopback or address.is_multicast):
                self.addresses.add(str(address))


def main() -> None:
    """Run the command and write the report; exit with the command's status."""
    report, *command = sys.argv[1:]
    for line in SETUP:
        subprocess.run(line.split(), check=True)
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as resolver:
        resolver.write(f"nameserver {DNS[0]}\n")
        resolver.flush()
        target = os.path.realpath("/etc/resolv.conf")
        subprocess.run(["mount", "--bind", resolver.name, target], check=True)
        witness = Witness()
        witness.start()
        status = subprocess.run(command, check=False).returncode
        found = {"names": sorted(witness.names), "addresses": sorted(witness.addresses)}
        Path(report).write_text(json.dumps(found), encoding="utf-8")
        with contextlib.suppress(OSError):
            subprocess.run(["umount", target], check=False)
    sys.exit(status)


if __name__ == "__main__":
    main()

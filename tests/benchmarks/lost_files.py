"""Kills and file losses at random, under a running server and two rebuilds.

    python -m tests.benchmarks.lost_files [--rounds 200] [--seed 0] [--minutes 60]

A server and two rebuilds run in processes of their own, which permissions bind. In each round
works are withdrawn, and then a process is killed, or a file is deleted, truncated, replaced by an
older copy, swapped with another, made unreadable, or a disk is full. After each, every withdrawn
work is asked for: no answer may name or show it, and every refusal must name a remedy. Then the
damage is mended as the messages say, and server and rebuild must recover. Prints JSON; exit status
1 if a withdrawn work was in an answer, a refusal named no remedy, or something did not recover.
"""

import argparse
import ctypes
import hashlib
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx
import torch

from app.auth.keys import KeyFile
from app.http.server import make_server
from app.main import create_app
from app.settings import Settings
from index.building import rebuild as rebuild_module
from index.building.rebuild import RebuildOptions, rebuild
from index.building.source import read_sources
from index.errors import TakedownError
from index.layout import DataFolder
from index.names import concept_id
from index.takedowns.log import TakedownLog
from index.takedowns.withdrawal import withdraw
from index.takedowns.witnesses import WITNESS
from model.errors import WhenceError
from tests.benchmarks.kill_rebuild import load
from tests.fakes import FakeEmbedder, patches
from tests.ports import free_port

CONCEPTS, EACH = 12, 3
NULL_QUERIES = 40  # calibration is not the subject here
CAPABILITY_VERSION = 0x20080522
PASS_OVER_PERMISSIONS = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
PATIENCE = 60.0  # seconds for a recovery
REMEDY = re.compile(
    r"whence |restore|try again|mend|give .*access|make room|delete|once .* again|wait|see /docs|"
    r"add it to WHENCE|choose",
    re.IGNORECASE,
)
TOKEN = "lost-files-admin"


def drop_rights() -> None:
    """Continue as somebody whom permissions bind: root passes them over by two capabilities."""
    torch.set_num_threads(1)
    rebuild_module.NULL_QUERIES = NULL_QUERIES
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
        sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, each of 64 bits
        if libc.capget(header, sets) == 0:
            for place in (0, 1):
                sets[place] &= ~PASS_OVER_PERMISSIONS
            libc.capset(header, sets)


def serve(root: Path, port: int) -> None:
    """Run the server until it is killed."""
    drop_rights()
    settings = Settings(data=root, port=port, device="cpu")
    make_server(create_app(settings, load=load), settings).run()


def rebuild_often(root: Path, source: Path, said: Any, seed: int) -> None:
    """Rebuild again and again; report each refusal."""
    drop_rights()
    chance = random.Random(seed)
    while True:
        attempt(root, source, said)
        time.sleep(chance.uniform(0, 0.2))


def attempt(root: Path, source: Path, said: Any, *, room: int | None = None) -> None:
    """Rebuild once; with ``room``, files can have so many bytes."""
    drop_rights()
    if room is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    options = RebuildOptions(canary_rate=0, force=True)
    try:
        rebuild(DataFolder(root), read_sources([source]), FakeEmbedder(), options)
        said.put(("rebuilt", ""))
    except WhenceError as error:
        said.put(("refused", str(error)))
    except Exception as error:
        said.put(("traceback", f"{type(error).__name__}: {error}"))


class House:
    """The data folder, its processes, and what happened."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.data = DataFolder(folder / "data")
        self.source, self.copies = folder / "source", folder / "copies"
        self.chance = random.Random(seed)
        self.found: Counter[str] = Counter()
        self.faults: list[str] = []
        self.withdrawn: dict[str, str] = {}  # exemplar id -> concept id
        self.pictures: dict[str, Path] = {}  # exemplar id -> file
        for number in range(CONCEPTS):
            place = self.source / f"work {number:02d}"
            place.mkdir(parents=True)
            for one in range(EACH):
                file = place / f"{one}.png"
                patches(100 * number + one, side=64).save(file)
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                text = f"{concept_id(place.name)}/{digest}"
                self.pictures[hashlib.sha256(text.encode()).hexdigest()[:20]] = file
        self.processes = multiprocessing.get_context("forkserver")
        self.processes.set_forkserver_preload(["tests.benchmarks.lost_files"])
        self.said = self.processes.Queue()
        rebuild(
            self.data, read_sources([self.source]), FakeEmbedder(), RebuildOptions(canary_rate=0)
        )
        self.log = TakedownLog(self.data.takedowns)
        record = {"name": "a", "sha256": hashlib.sha256(TOKEN.encode()).hexdigest()}
        record |= {"scope": "admin", "created_at": "2026-01-01T00:00:00Z"}
        self.data.keys.write_text(json.dumps({"keys": [record]}))
        KeyFile(self.data.keys).attest()
        self.port = free_port()
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=30,
            trust_env=False,
        )
        self.server: BaseProcess | None = None
        self.rebuilders: list[BaseProcess] = []
        self.start()

    def start(self) -> None:
        """Start the processes that do not run."""
        if self.server is None or not self.server.is_alive():
            self.server = self.processes.Process(target=serve, args=(self.data.root, self.port))
            self.server.start()
        while len(self.rebuilders) < 2:
            seed = self.chance.randrange(10**9)
            arguments = (self.data.root, self.source, self.said, seed)
            self.rebuilders.append(self.processes.Process(target=rebuild_often, args=arguments))
            self.rebuilders[-1].start()

    def stop(self) -> None:
        """Kill all processes."""
        for process in [*self.rebuilders, *filter(None, [self.server])]:
            process.kill()
            process.join()
        self.rebuilders.clear()

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response | None:
        """Send one request; None if no server answers. A refusal must name its remedy."""
        try:
            response = self.client.request(method, path, **more)
        except httpx.HTTPError:
            return None
        if response.status_code >= 400:
            detail = response.json().get("detail", "")
            expected = response.status_code == 404 and path.startswith(("/exemplars", "/concepts/"))
            if not expected:
                self.note_refusal(f"{response.status_code} {path}", detail)
        return response

    def note_refusal(self, where: str, text: str) -> None:
        """Count a refusal; without a remedy it is a fault."""
        self.found["refusals"] += 1
        if not REMEDY.search(text):
            self.faults.append(f"no remedy: {where}: {text}")

    def look(self) -> None:
        """Ask for every withdrawn work; none may be in an answer."""
        if not self.withdrawn:
            return
        some = self.chance.sample(sorted(self.withdrawn), min(4, len(self.withdrawn)))
        for exemplar in some:
            image = {"image": self.pictures[exemplar].read_bytes()}
            parameters = {"top_k": CONCEPTS, "exemplars": EACH}
            answer = self.ask("POST", "/attribute", files=image, params=parameters)
            self.judge(answer, f"attribute {exemplar}")
            shown = self.ask("GET", f"/exemplars/{exemplar}/image")
            if shown is not None and shown.status_code == 200:
                self.faults.append(f"shown: the image of {exemplar}")
        self.judge(self.ask("GET", "/concepts"), "concepts")

    def judge(self, answer: httpx.Response | None, where: str) -> None:
        """Look for withdrawn works in an answer."""
        if answer is None or answer.status_code != 200:
            self.found["no answer"] += 1
            return
        self.found["answers"] += 1
        for exemplar, concept in self.withdrawn.items():
            if exemplar in answer.text or f'"{concept}"' in answer.text:
                self.faults.append(f"shown: {exemplar} of {concept} in {where}")

    def withdraw(self) -> None:
        """Withdraw a work, by the server or the command; it counts once it is acknowledged."""
        left = sorted({self.concept(e) for e in self.pictures} - set(self.withdrawn.values()))
        if len(left) <= 3:  # begin anew, so that there is always something to withdraw
            for one in self.log.read().active:
                self.log.lift(one.id, reason="to begin anew")
            self.withdrawn.clear()
            return
        concept = self.chance.choice(left)
        if self.chance.random() < 0.5:
            body = {"kind": "concept", "id": concept, "reason": "r"}
            answer = self.ask("POST", "/takedowns", json=body)
            if answer is None or answer.status_code != 201:
                return
        else:
            try:
                withdraw(self.data, "concept", concept, reason="r")
            except WhenceError as error:
                self.note_refusal("takedown add", str(error))
                return
        self.found["takedowns"] += 1
        ours = {e for e in self.pictures if self.concept(e) == concept}
        self.wait(lambda: self.hidden(concept), f"the takedown of {concept}")
        self.withdrawn |= dict.fromkeys(ours, concept)

    def concept(self, exemplar: str) -> str:
        """The concept of a picture."""
        return concept_id(self.pictures[exemplar].parent.name)

    def hidden(self, concept: str) -> bool:
        """True once the server names the concept no more, or does not answer."""
        answer = self.ask("GET", "/concepts")
        return answer is None or answer.status_code != 200 or f'"{concept}"' not in answer.text

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition; a fault if it does not come."""
        until = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > until:
                self.faults.append(f"did not recover: {what}")
                return
            time.sleep(0.05)

    def targets(self) -> list[Path]:
        """The files that can be lost."""
        with suppress(OSError):
            published = self.data.index / (self.data.index / "CURRENT").read_text().strip()
            beside = [published / name for name in ("catalog.sqlite", "manifest.json", WITNESS)]
        cache = self.data.embeddings(FakeEmbedder.model_id)
        log = [self.data.takedowns, self.log.extent_file]
        keys = [self.data.keys, KeyFile(self.data.keys).witness]
        files = [*log, *log, *keys, self.data.index / "CURRENT", *beside, cache]
        return [path for path in files if path.is_file()]

    def harm(self) -> str:
        """Do one kind of harm; return its name."""
        if self.chance.random() < 0.25:
            return self.kill()
        if self.chance.random() < 0.1:
            return self.fill_the_disk()
        target = self.chance.choice(self.targets())
        older = self.copies / "older" / target.relative_to(self.data.root)
        kind = self.chance.choice(["delete", "delete both", "truncate", "older", "swap", "chmod"])
        with suppress(FileNotFoundError):  # a rebuild removed the version meanwhile
            if kind == "delete":
                target.unlink()
            elif kind == "delete both":  # a log with its extent, or keys with what lies beside
                for path in (self.data.takedowns, self.log.extent_file):
                    path.unlink(missing_ok=True)
            elif kind == "truncate":
                os.truncate(target, self.chance.randrange(target.stat().st_size + 1))
            elif kind == "older" and older.exists():
                shutil.copy(older, target)
            elif kind == "swap":
                other = self.chance.choice(self.targets())
                content = target.read_bytes()
                target.write_bytes(other.read_bytes())
                other.write_bytes(content)
            elif kind == "chmod":
                target.chmod(0)
        return f"{kind} {target.name}"

    def kill(self) -> str:
        """Kill the server or a rebuild, which is not started again before the next look."""
        if self.chance.random() < 0.4 and self.server:
            self.server.kill()
            self.server.join()
            self.start()
            return "kill the server"
        doomed = self.rebuilders.pop(self.chance.randrange(len(self.rebuilders)))
        doomed.kill()
        doomed.join()
        self.start()
        return "kill a rebuild"

    def fill_the_disk(self) -> str:
        """Rebuild and record while no file can grow."""
        room = self.chance.choice([0, 100, 4_096, 60_000])
        arguments = (self.data.root, self.source, self.said)
        process = self.processes.Process(target=attempt, args=arguments, kwargs={"room": room})
        process.start()
        process.join()
        return "full disk"

    def mend(self) -> None:
        """Mend the damage as the messages say."""
        if self.chance.random() < 0.3 and self.server:  # before, servers start on the damage
            self.server.kill()
            self.server.join()
            self.start()
            time.sleep(0.2)
            self.look()
        self.hear()
        for process in self.rebuilders:
            process.kill()
            process.join()
        self.rebuilders.clear()
        for path in (*self.data.root.rglob("*"),):
            with suppress(FileNotFoundError):
                path.chmod(0o755 if path.is_dir() else 0o644)
        try:
            self.log.read()
        except TakedownError as error:
            self.note_refusal("log", str(error))
            self.repair()
            self.found["repaired logs"] += 1
        if not self.data.keys.exists() or not self.keys_are_whole():
            shutil.copy(self.copies / "first" / "keys.json", self.data.keys)
        shutil.rmtree(self.data.root / "cache", ignore_errors=True)
        process = self.processes.Process(
            target=attempt, args=(self.data.root, self.source, self.said)
        )
        (self.data.index / "CURRENT").unlink(missing_ok=True)
        process.start()
        process.join()
        self.start()
        self.wait(self.healthy, "the server")
        self.hear()

    def repair(self) -> None:
        """Restore the log from the copy that a server has left, else from the backup."""
        if self.log.rescue_file.exists():
            try:
                self.log.repair()
            except TakedownError as error:  # the server had not read the last records
                self.note_refusal("takedown repair", str(error))
            else:
                return
        self.log.repair(self.copies / "newest.jsonl")

    def keys_are_whole(self) -> bool:
        """True if the file of keys is the one that was made."""
        return self.data.keys.read_bytes() == (self.copies / "first" / "keys.json").read_bytes()

    def healthy(self) -> bool:
        """True if the server is ready and in agreement with the data folder."""
        answer = self.ask("GET", "/health/ready")
        return bool(
            answer and answer.status_code == 200 and answer.json().get("reload_error") is None
        )

    def hear(self) -> None:
        """Read what rebuilds said."""
        while not self.said.empty():
            kind, text = self.said.get()
            self.found[kind] += 1
            if kind == "refused":
                self.note_refusal("rebuild", text)
            elif kind == "traceback":
                self.faults.append(f"traceback of a rebuild: {text}")


def main() -> int:
    """Harm, look and mend."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60, help="begin no round after these")
    options = parser.parse_args()
    harms: Counter[str] = Counter()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        house = House(Path(name), options.seed)
        try:
            shutil.copytree(house.data.root, house.copies / "first", dirs_exist_ok=True)
            house.wait(house.healthy, "the first start")
            for number in range(options.rounds):
                house.withdraw()
                if number % 5 == 0:
                    older = house.copies / "older"
                    shutil.rmtree(older, ignore_errors=True)
                    with suppress(shutil.Error):  # a rebuild writes and removes files
                        shutil.copytree(house.data.root, older)
                if house.data.takedowns.exists():  # the operator's backup
                    shutil.copy(house.data.takedowns, house.copies / "newest.jsonl")
                done = house.harm()
                harms[done.partition(" 2")[0]] += 1
                for _ in range(3):
                    house.look()
                    time.sleep(0.15)
                house.mend()
                house.look()
                print(f"{number + 1}: {done}", file=sys.stderr)
                if len(house.faults) > 20 or time.monotonic() - began > 60 * options.minutes:
                    break
        finally:
            house.stop()
    result = {
        "rounds": sum(harms.values()),
        "harms": dict(harms.most_common()),
        "seen": dict(house.found),
        "faults": house.faults,
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(result, indent=1))
    return int(bool(house.faults))


if __name__ == "__main__":
    sys.exit(main())

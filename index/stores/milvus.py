"""Vector store on a Milvus server, for collections larger than one machine's memory.

A version has a collection for each facet, `<name>_<facet>_<version>`, whose primary key is the
catalog's row and whose metric is the inner product. All are complete before the version is
published. The aliases `<name>_<facet>` point to the published collections, for other clients of
the Milvus. They are moved one by one; Whence itself uses `CURRENT` and the manifest, so that an
answer never mixes two versions. (Milvus Lite searches facets as fields of one collection slower.)

Indexes are FLAT, or IVF_FLAT for many vectors. Both store the vectors unchanged, so that
similarities are exact. The number of probed lists is chosen for each version (`probes` in its
manifest). The same client also opens Milvus Lite, an engine in this process that stores its data
in a local file, which only one process can open.
"""

import importlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np

from index.errors import SnapshotError, VectorStoreError, VectorStoreUnavailableError
from index.stores.lists import NEIGHBOURS, fewest_probes, list_count, wants_inverted
from index.stores.vectors import (
    ADDRESS,
    ERASED,
    Floats,
    IndexType,
    Mask,
    Rows,
    Scan,
    StoreAccess,
    VectorStore,
    VectorWriter,
    checked_queries,
    checked_vectors,
    read_erased,
    require_all,
    scan_by_searches,
)
from model.config import Facet
from model.files import sync_to_disk

COLLECTION = "whence"  # the name in a Milvus Lite file
ROW, VECTOR = "row", "vector"  # a collection's fields
FACETS: tuple[Facet, ...] = get_args(Facet)
Answer = TypeVar("Answer")
MAX_HITS = 16_384  # limit of Milvus on the hits of a search
QUERIES = 16  # queries in a request; more could exceed its time limit
MAX_MESSAGE = 16 * 2**20  # bytes of vectors in one message; Milvus takes up to 64 MiB
SEGMENT = 2**18  # approximate number of vectors that Milvus indexes together
WRITE, BUILD = 120.0, 24 * 3600.0  # seconds for a message of vectors; for indexing and loading
RETRY_DELAYS = (1.0, 4.0, 15.0)  # seconds between attempts to write or publish
NOT_FOUND, NOT_LOADED = 100, 101  # Milvus's error codes of a collection
REFUSED = re.compile("auth check failure|permission deny", re.IGNORECASE)  # Milvus's messages
MISSING = "missing"
FAILED = ("Failed", MISSING)  # final states of an index that failed


@dataclass(frozen=True)
class MilvusAddress:
    """Address of a Milvus or a Milvus Lite file, and the prefix of its collections."""

    text: str  # as given; the path of a file is absolute
    uri: str  # for pymilvus
    collection: str

    @classmethod
    def parse(cls, text: str) -> "MilvusAddress":
        """Read ``milvus://host:port/collection``, ``milvus+tls://...`` or the path of a file.

        Raises:
            VectorStoreError: it is neither.
        """
        scheme, separator, rest = text.partition("://")
        if not separator and text.endswith(".db"):
            path = str(Path(text).absolute())
            return cls(path, path, COLLECTION)
        place, _, collection = rest.partition("/")
        encrypted = {"milvus": "http", "milvus+tls": "https"}
        # Milvus's rule for names. A password in an address would appear in manifests and logs.
        sound = re.fullmatch(r"[A-Za-z_]\w{0,199}", collection, re.ASCII)
        if scheme not in encrypted or not re.fullmatch(r"[\w.-]+:\d+|\[[0-9A-Fa-f:]+\]:\d+", place):
            sound = None
        if not sound:
            shown = re.sub(r"//.*@", "//...@", text)
            raise VectorStoreError(
                f"the vector store {shown!r} is not one: give milvus://HOST:PORT/COLLECTION (a "
                "name of letters, digits and _; user and password go into "
                "WHENCE_VECTOR_STORE_TOKEN), or a Milvus Lite file that ends in .db"
            )
        return cls(text, f"{encrypted[scheme]}://{place}", collection)


def open_engine(address: str, access: StoreAccess) -> "MilvusEngine":
    """Return the engine at an address; see `index.stores.registry`.

    Raises:
        VectorStoreError: the address is malformed.
    """
    return MilvusEngine(MilvusAddress.parse(address), access)


class MilvusEngine:
    """Stores each version's vectors in collections of their own."""

    def __init__(self, place: MilvusAddress, access: StoreAccess) -> None:
        self._place = place
        self._access = access
        self.address: str | None = place.text

    def write(
        self, folder: Path, version: str, count: int, dimensions: Mapping[Facet, int]
    ) -> VectorWriter:
        """See `VectorEngine.write`."""
        # Connect first: a folder with the address of a Milvus that never answers cannot be removed.
        connections = self._connect(version, dimensions)
        # The address lets a later run remove the collections of a killed rebuild.
        (folder / ADDRESS).write_text(f"{self._place.text}\n", encoding="utf-8")
        sync_to_disk(folder / ADDRESS)
        return _MilvusWriter(connections, count, dimensions)

    def open(
        self,
        folder: Path,
        version: str,
        count: int,
        dimensions: Mapping[Facet, int],
        probes: Mapping[Facet, int],
    ) -> VectorStore:
        """See `VectorEngine.open`."""
        return MilvusStore(self._connect(version, dimensions), folder, count, dimensions, probes)

    def publish(self, version: str) -> None:
        """Set the aliases to the version's collections."""
        for facet, connection in self._connect(version, FACETS).items():
            _retry(self._set_alias, self._name(facet), connection)

    def remove(self, version: str) -> None:
        """Drop the version's collections, if they exist."""
        for connection in self._connect(version, FACETS).values():
            if connection.call("has_collection", connection.collection):
                for alias in connection.call("list_aliases", connection.collection)["aliases"]:
                    connection.call("drop_alias", alias)  # Milvus keeps collections with an alias
                connection.call("drop_collection", connection.collection)

    def _set_alias(self, alias: str, connection: "_Connection") -> None:
        known = alias in connection.call("list_aliases")["aliases"]
        if connection.call("has_collection", connection.collection):
            name = connection.collection
            connection.call("alter_alias" if known else "create_alias", name, alias)
        elif known:  # left by a version with more facets
            connection.call("drop_alias", alias)

    def _name(self, facet: Facet) -> str:
        return f"{self._place.collection}_{facet}"

    def _connect(self, version: str, facets: Iterable[Facet]) -> dict[Facet, "_Connection"]:
        suffix = re.sub(r"[^0-9A-Za-z]", "_", version)
        return {
            facet: _Connection(self._place, f"{self._name(facet)}_{suffix}", self._access)
            for facet in facets
        }


class _Connection:
    """Calls Milvus about one collection, by a client that the process shares."""

    def __init__(self, place: MilvusAddress, collection: str, access: StoreAccess) -> None:
        self.place = place
        self.collection = collection
        self._pymilvus, self._grpc = _libraries()
        self.seconds = access.seconds
        with self.named_errors():
            self.client = _client(place.uri, access.token, access.seconds)

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Turn errors of Milvus into a `SnapshotError` or `VectorStoreUnavailableError`."""
        try:
            yield
        except self._pymilvus.MilvusException as error:
            if error.code == NOT_FOUND:
                raise SnapshotError(
                    f"the vectors are not in {self.place.text} any more: there is no collection "
                    f"{self.collection!r}; run `whence rebuild`"
                ) from error
            raise self._unavailable(error, error.message) from error
        except self._grpc.RpcError as error:
            raise self._unavailable(error, str(error.details())) from error

    def call(self, method: str, *arguments: Any, least: float = 0, **options: Any) -> Any:
        """Call a method of the client with a timeout of at least ``least`` seconds."""
        with self.named_errors():
            timeout = max(least, self.seconds)
            return getattr(self.client, method)(*arguments, timeout=timeout, **options)

    def ask(self, method: str, *, least: float = 0, **options: Any) -> Any:
        """Call a method of the client about the collection.

        A restarted Milvus may not have loaded the collection; then it is loaded first.
        """
        try:
            return self.call(method, self.collection, least=least, **options)
        except VectorStoreUnavailableError as error:
            if getattr(error.__cause__, "code", None) != NOT_LOADED:
                raise
        self.call("load_collection", self.collection, least=least)
        return self.call(method, self.collection, least=least, **options)

    def _unavailable(self, error: BaseException, reason: str) -> VectorStoreUnavailableError:
        cause = " ".join(str(reason).split())[:200]
        if "local milvus" in cause:
            return VectorStoreUnavailableError(
                f"the Milvus Lite file {self.place.text} cannot be opened; only one process at a "
                "time can: end the other, or let a Milvus serve both (docs/scale.md). If there is "
                "no other, see that its folder is there and can be written to"
            )
        if self._refuses(error):
            return VectorStoreUnavailableError(
                f"the Milvus at {self.place.text} does not permit this ({cause}): "
                "see WHENCE_VECTOR_STORE_TOKEN, and that user's permissions in Milvus"
            )
        return VectorStoreUnavailableError(
            f"the vectors at {self.place.text} cannot be reached ({cause}); once Milvus answers "
            "again, nothing else needs doing"
        )

    def _refuses(self, error: BaseException) -> bool:
        """Return True if Milvus refuses the token, or the user lacks a permission.

        An error of pymilvus while it connects names no reason; its causes do.
        """
        codes = self._grpc.StatusCode
        chain = [error]
        while (cause := chain[-1].__cause__) and cause not in chain:  # pymilvus makes circles
            chain.append(cause)
        return any(
            error.code() in (codes.UNAUTHENTICATED, codes.PERMISSION_DENIED)
            if isinstance(error, self._grpc.RpcError)
            else REFUSED.search(str(error))
            for error in chain
        )


@lru_cache
def _libraries() -> tuple[Any, Any]:
    try:
        pymilvus, grpc = (importlib.import_module(name) for name in ("pymilvus", "grpc"))
    except ImportError as error:
        raise VectorStoreError(
            "vectors on a Milvus need the extra `milvus`; in the project's folder: "
            "pip install '.[milvus]'"
        ) from error
    # They log every error with a traceback, and raise it, too.
    for name in ("pymilvus", "milvus_lite"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return pymilvus, grpc


@lru_cache
def _client(uri: str, token: str, seconds: float) -> Any:
    return _libraries()[0].MilvusClient(uri, token=token, timeout=seconds)


class _MilvusWriter:
    """Fills new collections.

    Rows are upserted, not inserted, so that rows sent again after a failure replace the first.
    """

    def __init__(
        self,
        connections: Mapping[Facet, _Connection],
        count: int,
        dimensions: Mapping[Facet, int],
    ) -> None:
        self._connections = connections
        self._count = count
        self._dimensions = dict(dimensions)
        for facet, connection in connections.items():
            types = connection._pymilvus.DataType
            schema = connection.client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field(ROW, types.INT64, is_primary=True)
            schema.add_field(VECTOR, types.FLOAT_VECTOR, dim=dimensions[facet])
            _retry(_create, connection, schema)

    def upsert(self, rows: Rows, vectors: Mapping[Facet, Floats]) -> None:
        sent = {
            facet: checked_vectors(facet, vectors[facet], length)
            for facet, length in self._dimensions.items()
        }
        # Of a row that is twice in a message Milvus keeps either; so only the last is sent.
        last = len(rows) - 1 - np.unique(rows[::-1], return_index=True)[1]
        for facet, matrix in sent.items():
            batch = _batch(self._dimensions[facet])
            for start in range(0, len(last), batch):
                records = [
                    {ROW: int(rows[place]), VECTOR: matrix[place]}
                    for place in last[start : start + batch]
                ]
                _retry(self._connections[facet].ask, "upsert", least=WRITE, data=records)

    def finish(self, index_type: IndexType, asked: Mapping[Facet, Floats]) -> dict[Facet, int]:
        probes: dict[Facet, int] = {}
        for facet, connection in self._connections.items():
            lists = self._index(connection, index_type, self._dimensions[facet])
            require_all(_retry(_count_rows, connection), self._count)
            if lists:
                search = partial(_retry, _Search(connection, lists))
                k = min(NEIGHBOURS, self._count)
                queries = asked[facet]
                probes[facet] = fewest_probes(
                    lists,
                    search(queries, k, probes=lists)[1],
                    lambda looked, search=search, queries=queries, k=k: search(  # type: ignore[misc]
                        queries, k, probes=looked
                    )[1],
                )
        return probes

    def _index(self, connection: _Connection, index_type: IndexType, length: int) -> int:
        """Index and load the collection; return its number of lists, 0 for a FLAT index."""
        lists = _lists(self._count) if wants_inverted(index_type, self._count, length) else 0
        parameters: dict[str, Any] = {"index_type": "FLAT"}
        if lists:
            parameters = {"index_type": "IVF_FLAT", "params": {"nlist": lists}}
        indexes = connection.client.prepare_index_params()
        indexes.add_index(field_name=VECTOR, index_name=VECTOR, metric_type="IP", **parameters)
        _retry(connection.ask, "flush", least=BUILD)
        _retry(_create_index, connection, indexes)
        while (state := _index_state(connection)) != "Finished":
            if state in FAILED:
                raise SnapshotError(
                    f"the collection {connection.collection!r} in {connection.place.text} could "
                    f"not be indexed: the index is {state!r}, and Milvus's log has the reason; run "
                    "`whence rebuild` again"
                )
            time.sleep(0.2)
        _retry(connection.ask, "load_collection", least=BUILD)
        return lists


def _retry(method: Callable[..., Answer], *arguments: Any, **options: Any) -> Answer:
    """Call an idempotent method, again after a short outage, so that no rebuild is lost to it."""
    for wait in RETRY_DELAYS:
        try:
            return method(*arguments, **options)
        except VectorStoreUnavailableError:
            time.sleep(wait)
    return method(*arguments, **options)


def _create(connection: _Connection, schema: Any) -> None:
    # An attempt that failed may have created it.
    if not connection.call("has_collection", connection.collection):
        connection.call("create_collection", connection.collection, schema=schema)


def _create_index(connection: _Connection, indexes: Any) -> None:
    if not connection.ask("list_indexes"):  # as above
        # `_index` waits for it: the client's own waiting fails on Milvus Lite.
        connection.ask("create_index", least=BUILD, index_params=indexes, sync=False)


def _index_state(connection: _Connection) -> str:
    """Return the state of the index as Milvus names it; ``missing`` if there is none."""
    found = _retry(connection.ask, "describe_index", index_name=VECTOR)
    return str(found["state"]) if found else MISSING


def _batch(length: int) -> int:
    """Return the number of vectors of a message."""
    return max(1, MAX_MESSAGE // (4 * length))


def _lists(count: int) -> int:
    """Return the number of lists; Milvus builds an inverted file for each segment."""
    return list_count(min(count, SEGMENT))


def _count_rows(connection: _Connection) -> int:
    # Strong: the count includes every write.
    [found] = connection.ask(
        "query", filter="", output_fields=["count(*)"], consistency_level="Strong"
    )
    return int(found["count(*)"])


@dataclass(frozen=True)
class _Search:
    """Searches one collection, in as many requests as Milvus's limits require."""

    connection: _Connection
    lists: int  # of its inverted file; 0 if it has none

    def __call__(
        self, queries: Floats, k: int, *, probes: int = 0, condition: str = ""
    ) -> tuple[Floats, Rows]:
        """Return similarities (Q, k) and rows (Q, k), best first; row -1 pads short results.

        Args:
            queries: (Q, D).
            k: at most `MAX_HITS`.
            probes: number of lists to probe.
            condition: filter expression of Milvus.
        """
        similarities = np.full((len(queries), k), -1, dtype=np.float32)
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        for start in range(0, len(queries), QUERIES):
            answers = self.connection.ask(
                "search",
                data=list(queries[start : start + QUERIES]),
                anns_field=VECTOR,
                limit=k,
                filter=condition,
                output_fields=[ROW],
                search_params={
                    "metric_type": "IP",
                    "params": {"nprobe": probes} if self.lists else {},
                },
            )
            for place, hits in enumerate(answers, start=start):
                similarities[place, : len(hits)] = [hit["distance"] for hit in hits]
                rows[place, : len(hits)] = [hit[ROW] for hit in hits]
        return similarities, rows


class MilvusStore:
    """Searches the vectors of one version.

    Args:
        connections: facet -> its collection.
        folder: of the version; it lists erased rows.
        count: rows of the version.
        dimensions: lengths of its vectors.
        probes: number of lists to probe, of facets that have an inverted file.

    Raises:
        SnapshotError: a collection is missing, incomplete or of other dimensions.
    """

    def __init__(
        self,
        connections: Mapping[Facet, _Connection],
        folder: Path,
        count: int,
        dimensions: Mapping[Facet, int],
        probes: Mapping[Facet, int],
    ) -> None:
        self._connections = connections
        self._folder = folder
        self._probes = dict(probes)
        self._dimensions = dict(dimensions)
        self._searches = {
            facet: _Search(connection, _lists(count) if facet in probes else 0)
            for facet, connection in connections.items()
        }
        self.count = count
        for facet, connection in connections.items():
            self._require(connection, self._dimensions[facet])

    def _require(self, connection: _Connection, length: int) -> None:
        where = f"the collection {connection.collection!r} in {connection.place.text}"
        fields = connection.ask("describe_collection")["fields"]
        [found] = [int(f["params"]["dim"]) for f in fields if f["name"] == VECTOR] or [0]
        if found != length:
            raise SnapshotError(
                f"{where} has vectors of dimension {found}, the index of {length}; run "
                "`whence rebuild`"
            )
        erased, rows = self.erased, _count_rows(connection)
        # More rows are left after an interrupted `erase`; the next one deletes them.
        if not self.count - len(erased) <= rows <= self.count:
            raise SnapshotError(
                f"{where} holds {rows} vectors for {self.count} exemplars, of which {len(erased)} "
                "were erased; run `whence rebuild`"
            )

    @property
    def erased(self) -> Rows:
        """See `VectorStore.erased`; another process may erase while this one serves."""
        return read_erased(self._folder)

    def check(self) -> None:
        """See `VectorStore.check`."""
        for connection in self._connections.values():
            connection.ask("query", filter=f"{ROW} == 0", output_fields=[ROW])

    def dimension(self, facet: Facet) -> int:
        """See `VectorStore.dimension`."""
        return self._dimensions[facet]

    def search(
        self, facet: Facet, queries: Floats, k: int, mask: Mask | None = None
    ) -> tuple[Floats, Rows]:
        """See `VectorStore.search`."""
        search, queries = self._searches[facet], self._checked(facet, queries)
        k = min(k, mask.remaining if mask else self.count)
        hidden = _among(mask.hidden, "not in") if mask else ""
        probes = self._probes.get(facet, 0)
        if k <= MAX_HITS:
            found = search(queries, k, probes=probes, condition=hidden) if k else None
            empty = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
            return found or empty
        # More than Milvus returns at once: search the rows in parts, probing all lists.
        parts = []
        for start in range(0, self.count, MAX_HITS):
            part = f"{ROW} >= {start} and {ROW} < {start + MAX_HITS}"
            size = min(MAX_HITS, self.count - start)
            condition = f"{part} and {hidden}" if hidden else part
            parts.append(search(queries, size, probes=search.lists, condition=condition))
        similarities, rows = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
        order = np.argsort(np.where(rows < 0, np.inf, -similarities), axis=1, kind="stable")[:, :k]
        return (
            np.take_along_axis(similarities, order, axis=1),
            np.take_along_axis(rows, order, axis=1),
        )

    def scan(
        self, facet: Facet, queries: Floats, depth: int, mask: Mask | None = None
    ) -> Sequence[Scan]:
        """See `VectorStore.scan`."""
        return scan_by_searches(self, facet, queries, depth, mask)

    def inverted(self, facet: Facet) -> bool:
        """See `VectorStore.inverted`."""
        return facet in self._probes

    def vectors(self, facet: Facet, rows: Rows) -> Floats:
        """See `VectorStore.vectors`."""
        wanted, places = np.unique(rows, return_inverse=True)
        found = np.empty((len(wanted), self._dimensions[facet]), dtype=np.float32)
        there = np.zeros(len(wanted), dtype=np.bool_)
        connection = self._connections[facet]
        batch = min(MAX_HITS, _batch(self._dimensions[facet]))
        for start in range(0, len(wanted), batch):
            condition = _among(wanted[start : start + batch], "in")
            for record in connection.ask("query", filter=condition, output_fields=[ROW, VECTOR]):
                place = int(np.searchsorted(wanted, record[ROW]))
                found[place], there[place] = record[VECTOR], True
        if not there.all():
            raise SnapshotError(
                f"{int((~there).sum())} of {len(wanted)} {facet} vectors are not in "
                f"{connection.place.text} any more; run `whence rebuild`"
            )
        return found[places]

    def similarities(self, facet: Facet, query: Floats, rows: Rows) -> Floats:
        """See `VectorStore.similarities`."""
        queries = self._checked(facet, query[None])
        search = self._searches[facet]
        wanted, places = np.unique(rows, return_inverse=True)
        exact = np.full(len(wanted), np.nan, dtype=np.float32)
        # Milvus computes the products, so that no vectors are sent.
        for start in range(0, len(wanted), MAX_HITS):
            part = wanted[start : start + MAX_HITS]
            values, hits = search(
                queries, len(part), probes=search.lists, condition=_among(part, "in")
            )
            there = hits[0] >= 0
            exact[np.searchsorted(wanted, hits[0][there])] = values[0][there]
        left = wanted[np.isnan(exact)]
        if len(left):  # an approximate search may miss rows if the condition leaves few
            exact[np.isnan(exact)] = self.vectors(facet, left) @ queries[0]
        return exact[places]

    def compare(self, facet: Facet, queries: Floats) -> Floats | None:  # noqa: ARG002
        """See `VectorStore.compare`: a search transfers less than all vectors."""
        return None

    def erase(self, rows: Rows) -> None:
        """See `VectorStore.erase`: the vectors are deleted from the collection."""
        known = self.erased
        erased = np.union1d(known, rows)
        left = self.count - len(erased)
        connections = self._connections.values()
        if len(erased) == len(known) and all(_count_rows(one) == left for one in connections):
            return
        # Record the rows before deleting: a missing vector is always listed.
        draft = self._folder / f".{ERASED}"
        draft.write_text(json.dumps(erased.tolist()), encoding="utf-8")
        sync_to_disk(draft)
        draft.replace(self._folder / ERASED)
        sync_to_disk(self._folder)
        for connection in connections:
            for start in range(0, len(erased), MAX_HITS):
                connection.ask("delete", filter=_among(erased[start : start + MAX_HITS], "in"))

    def _checked(self, facet: Facet, queries: Floats) -> Floats:
        return checked_queries(facet, queries, self.dimension(facet))


def _among(rows: Sequence[int] | Rows, word: str) -> str:
    """Return the filter expression for rows ``in`` or ``not in`` a set."""
    return f"{ROW} {word} [{','.join(map(str, np.asarray(rows).tolist()))}]"

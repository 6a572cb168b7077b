"""Find the engine of a vector store by its address; engines are imported when first used.

A kind of store registers by an entry in `STORES`: the pattern of its addresses, and the module
whose function `open_engine(address, access)` opens them.
"""

import importlib
import re
from dataclasses import dataclass, field
from typing import cast

from index.errors import VectorStoreError
from index.stores.vectors import StoreAccess, VectorEngine

STORES = {  # pattern of an address -> module with `open_engine`
    r"milvus(\+tls)?://.*": "index.stores.milvus",
    r".*\.db": "index.stores.milvus",  # a file of Milvus Lite
}
FILES = "index.stores.faiss_files"  # keeps vectors in the version's folder, without an address


@dataclass(frozen=True)
class VectorStores:
    """Opens vector stores.

    Args:
        access: token and time limit of remote stores.
    """

    access: StoreAccess = field(default_factory=StoreAccess)

    def engine(self, address: str | None) -> VectorEngine:
        """Return the engine at an address; None stands for files in the version's folder.

        Raises:
            VectorStoreError: no kind of store has such addresses, or this one is malformed.
        """
        module = _module(address) if address else FILES
        opened = importlib.import_module(module).open_engine(address, self.access)
        return cast("VectorEngine", opened)


def _module(address: str) -> str:
    for pattern, module in STORES.items():
        if re.fullmatch(pattern, address):
            return module
    shown = re.sub(r"//.*@", "//...@", address)
    raise VectorStoreError(
        f"the vector store {shown!r} is not one: give milvus://HOST:PORT/COLLECTION, or a Milvus "
        "Lite file that ends in .db"
    )


LOCAL = VectorStores()  # reaches stores that ask for no token

"""A typed client of Whence, which needs only httpx and pydantic.

from whence_client import Whence

with Whence("http://127.0.0.1:8000", key="whence_...") as whence:
    answer = whence.attribute("image.png", top_k=3)
    print(answer.verdict, [concept.name for concept in answer.concepts])
"""

from whence_client.client import AsyncWhence, Whence
from whence_client.errors import ServerError
from whence_client.images import ImageInput

__all__ = ["AsyncWhence", "ImageInput", "ServerError", "Whence"]

"""Every error Whence raises on purpose descends from `WhenceError`.

    WhenceError
    ├── ImageError                 an image that cannot be used
    │   ├── UndecodableImageError      its bytes are not a whole image
    │   │   └── UnreadableImageError       its bytes cannot be read, or its decoder failed, now
    │   ├── UnsupportedImageError      not an accepted format
    │   ├── ImageTooLargeError         more pixels (or frames' worth of them) than allowed
    │   ├── ImageTooSmallError         too few pixels to describe
    │   ├── RegionError                a region that reaches beyond the image
    │   ├── RegionTooSmallError        a region of too few pixels
    │   └── ImageTooCostlyError        more time or memory to decode than its size allows
    ├── BackboneError              unknown name, bad option, weights that do not fit
    │   └── HubError                   weights that are neither in the local cache nor in reach
    ├── SourceError                a folder, shard or manifest that cannot be read
    ├── TrainingError              images that cannot be trained on
    ├── DecodersUnavailableError   no process can be started that decodes images
    └── NotReadyError              no model or index that can answer
        └── ModelError                 a stored model that is missing, damaged or of another
                                       version, or a device that it cannot run on

Each message says what was wrong and what to do; it may be shown to the user as it is. The class
attributes say how the API reports the error (RFC 9457): HTTP status, the type's name, the title of
its kind, and an example of a message for the documentation. A class without its own inherits them.
"""


class WhenceError(Exception):
    """Base of the named errors; over HTTP an internal error, whose message is only logged."""

    status: int = 500
    type: str = "internal-error"
    title: str = "Something went wrong here"
    example: str = (
        "the request could not be answered because of an error in the server; its log tells more "
        "under this instance"
    )


class ImageError(WhenceError):
    """An image that cannot be used.

    Attributes:
        lasting: the same bytes are refused at every later try, too, so that it need not be made.
    """

    lasting: bool = True


class UndecodableImageError(ImageError):
    """The bytes are not a complete image."""

    status = 400
    type = "undecodable-image"
    title = "The image cannot be decoded"
    example = (
        "the image could not be decoded (image file is truncated); it may be cut short or damaged"
    )


class UnreadableImageError(UndecodableImageError):
    """The bytes cannot be read now, or the process that decodes them failed."""

    lasting = False


class UnsupportedImageError(ImageError):
    """The bytes are not an image of an accepted format."""

    status = 415
    type = "unsupported-image-type"
    title = "The image is of no accepted type"
    example = (
        "these bytes are not an image of an accepted type (JPEG, PNG, WEBP, GIF, TIFF, BMP, AVIF)"
    )


class ImageTooLargeError(ImageError):
    """The image has more pixels than allowed."""

    status = 413
    type = "image-too-large"
    title = "The image has too many pixels"
    example = (
        "the image is 20000 x 20000 pixels; at most 50,000,000 pixels and 20,000 on a side are "
        "accepted: send it smaller"
    )


class ImageTooSmallError(ImageError):
    """The image has too few pixels to describe."""

    status = 422
    type = "image-too-small"
    title = "The image has too few pixels"
    example = "the image is 1 x 1 pixels; at least 16 on each side are needed to describe it"


class RegionError(ImageError):
    """The region asked about reaches beyond the image."""

    status = 422
    type = "region-outside-image"
    title = "The region does not lie in the image"
    example = (
        "the region 900,0,200,200 reaches beyond the image, which is 1000 x 600 pixels upright; "
        "give x,y,width,height within it"
    )


class RegionTooSmallError(ImageError):
    """The region asked about has too few pixels to describe."""

    status = 422
    type = "region-too-small"
    title = "The region has too few pixels"
    example = "the region is 8 x 8 pixels; at least 16 on each side are needed to describe it"


class ImageTooCostlyError(ImageError):
    """The image takes more time or memory to decode than images of its size may take.

    Both depend on what else the machine does.
    """

    lasting = False
    status = 413
    type = "image-too-costly"
    title = "The image costs too much to decode"
    example = (
        "decoding the image took more processor time than an image of its size may take, and was "
        "stopped: save it anew, as JPEG or PNG"
    )


class DecodersUnavailableError(WhenceError):
    """No process can be started that decodes images."""

    status = 503
    type = "decoding-unavailable"
    title = "No image can be decoded now"
    example = (
        "no process that decodes images could be started (Cannot allocate memory); free memory or "
        "processes on the server"
    )


class BackboneError(WhenceError):
    """A backbone that cannot be built."""


class HubError(BackboneError):
    """Weights that are not in the local cache, and a hub that is out of reach."""


class SourceError(WhenceError):
    """A folder, shard, manifest or address that pictures cannot be read from."""


class TrainingError(WhenceError):
    """Images or features that cannot be trained on."""


class NotReadyError(WhenceError):
    """No model or index that can answer."""

    status = 503
    type = "no-index"
    title = "There is no index to answer from"
    example = (
        "there is no index in data/index yet; run `whence train --images PATH`, then `whence "
        "rebuild --source PATH` (with compose: `docker compose run --rm train`, then `docker "
        "compose run --rm rebuild`)"
    )


class ModelError(NotReadyError):
    """A stored model that is missing, damaged or of another version, or that cannot run here."""

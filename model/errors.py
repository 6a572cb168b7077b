"""Every error Whence raises on purpose descends from `WhenceError`.

    WhenceError
    ├── ImageError                 an image that cannot be used
    │   ├── UndecodableImageError      its bytes are not a whole image
    │   ├── UnsupportedImageError      not an accepted format
    │   ├── ImageTooLargeError         more pixels (or frames' worth of them) than allowed
    │   └── ImageTooSmallError         too few pixels to describe
    ├── BackboneError              unknown name, bad option, weights that do not fit
    │   └── HubError                   weights that are neither in the local cache nor in reach
    ├── TrainingError              images that cannot be trained on
    └── ModelError                 a stored model that is missing, damaged or of another version, or
                                   a device that it cannot run on

Each message says what was wrong and what to do; it may be shown to the user as it is.
"""


class WhenceError(Exception):
    """Base of the named errors."""


class ImageError(WhenceError):
    """An image that cannot be used."""


class UndecodableImageError(ImageError):
    """The bytes are not a complete image."""


class UnsupportedImageError(ImageError):
    """The bytes are not an image of an accepted format."""


class ImageTooLargeError(ImageError):
    """The image has more pixels than allowed."""


class ImageTooSmallError(ImageError):
    """The image has too few pixels to describe."""


class BackboneError(WhenceError):
    """A backbone that cannot be built."""


class HubError(BackboneError):
    """Weights that are not in the local cache, and a hub that is out of reach."""


class TrainingError(WhenceError):
    """Images or features that cannot be trained on."""


class ModelError(WhenceError):
    """A stored model that is missing, damaged or of another version, or that cannot run here."""

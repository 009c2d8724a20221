"""The exceptions that kbnet raises.

    KBNetError
    ├── InvalidInputError        (ValueError)       an argument or array has the wrong type, shape or value
    │   └── NonFiniteInputError                     an image contains NaN or infinity
    ├── ImageError                                  an image file can't be read or written
    │   ├── UnreadableImageError                    not an image, or empty, truncated or damaged
    │   ├── UnsupportedImageError                   an unsupported kind of image, such as an animation
    │   ├── ImageTooLargeError                      more pixels than the limit; refused before decoding
    │   ├── NotEnoughMemoryError (MemoryError)      an image needs more memory than is free; refused before processing
    │   └── OutputError          (OSError)          the result can't be written; no partial file is left behind
    │       └── OutputExistsError                   the result would overwrite an existing file
    ├── ModelError
    │   ├── UnknownModelError    (LookupError)      no model, task or preset has that name
    │   ├── CheckpointError                         a weights file is damaged, malicious or for another network
    │   └── DownloadError        (OSError)          weights can't be downloaded or uploaded
    ├── BackendError             (RuntimeError)     the requested operator backend can't run this call
    ├── RecipeError              (ValueError)       a training recipe is malformed or contradicts itself
    ├── ExportError              (RuntimeError)     an exported graph doesn't compute what the network computes
    ├── TrainingError            (RuntimeError)     training can't continue: it diverged, or the checkpoint doesn't fit
    └── MissingExtraError        (ImportError)      an optional dependency is not installed

Each message says what was expected, what was found, and what to do. The command line prints it as one line and exits
with a non-zero status.
"""


class KBNetError(Exception):
    """Base class of all exceptions that kbnet raises."""


class InvalidInputError(KBNetError, ValueError):
    """An argument or array has the wrong type, shape or value."""


class NonFiniteInputError(InvalidInputError):
    """An image contains NaN or infinity."""


class ImageError(KBNetError):
    """An image file can't be read or written."""


class UnreadableImageError(ImageError):
    """The file is not an image, or it is empty, truncated or damaged."""


class UnsupportedImageError(ImageError):
    """The file is an image of an unsupported kind, such as an animation."""


class ImageTooLargeError(ImageError):
    """The image has more pixels than the limit. It was refused before decoding."""


class NotEnoughMemoryError(ImageError, MemoryError):
    """The image needs more memory than is free. It was refused before processing."""


class OutputError(ImageError, OSError):
    """The result can't be written. No partial file is left behind."""


class OutputExistsError(OutputError):
    """The result would overwrite an existing file, and overwriting wasn't requested."""


class ModelError(KBNetError):
    """A model can't be found, built or loaded."""


class UnknownModelError(ModelError, LookupError):
    """No model, task or preset has that name."""


class CheckpointError(ModelError):
    """A weights file is damaged, malicious, or for another network."""


class DownloadError(ModelError, OSError):
    """Weights can't be downloaded from a mirror or hub, or uploaded to one."""


class BackendError(KBNetError, RuntimeError):
    """The requested operator backend can't run this call on this machine."""


class RecipeError(KBNetError, ValueError):
    """A training recipe is malformed or contradicts itself."""


class ExportError(KBNetError, RuntimeError):
    """An exported graph doesn't compute what the network computes. It was not written."""


class TrainingError(KBNetError, RuntimeError):
    """Training can't continue: it diverged, or its checkpoint doesn't fit the recipe."""


class MissingExtraError(KBNetError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {package!r}, which is not installed; run: pip install 'kbnet[{extra}]'"
        )

"""Every error kbnet raises on purpose.

    KBNetError
    ├── InvalidInputError        (ValueError)       an argument or array is not what was asked for
    │   └── NonFiniteInputError                     NaN or infinity in an image
    ├── ImageError                                  a picture file could not be read or written
    │   ├── UnreadableImageError                    not an image, empty, truncated or damaged
    │   ├── UnsupportedImageError                   an image of a kind that is not handled (an animation, say)
    │   ├── ImageTooLargeError                      more pixels than the limit, refused before decoding
    │   ├── NotEnoughMemoryError (MemoryError)      the image needs more memory than is free, refused before the work
    │   └── OutputError          (OSError)          the result could not be written; nothing partial is left
    │       └── OutputExistsError                   the result would overwrite a file
    ├── ModelError
    │   ├── UnknownModelError    (LookupError)      no model, task or preset of that name
    │   ├── CheckpointError                         a weights file is damaged, hostile or of another network
    │   └── DownloadError        (OSError)          weights could not be fetched, or put onto a hub
    ├── BackendError             (RuntimeError)     the named operator backend cannot run this call here
    ├── RecipeError              (ValueError)       a training recipe contradicts itself
    ├── ExportError              (RuntimeError)     an exported graph does not compute what the network does
    ├── TrainingError            (RuntimeError)     a run cannot go on: diverged, or its checkpoint does not fit
    └── MissingExtraError        (ImportError)      an optional dependency is not installed

A message says what was expected, what came, and what to do. The command line prints it as one line and exits non-zero.
"""


class KBNetError(Exception):
    """Base of every error raised on purpose by kbnet."""


class InvalidInputError(KBNetError, ValueError):
    """An argument or array is not what was asked for."""


class NonFiniteInputError(InvalidInputError):
    """An image holds NaN or infinity."""


class ImageError(KBNetError):
    """A picture file could not be read or written."""


class UnreadableImageError(ImageError):
    """The file is not an image, or it is empty, truncated or damaged."""


class UnsupportedImageError(ImageError):
    """The file is an image of a kind that is not handled."""


class ImageTooLargeError(ImageError):
    """The image has more pixels than the limit; it was refused before decoding."""


class NotEnoughMemoryError(ImageError, MemoryError):
    """The image needs more memory than is free; it was refused before the work."""


class OutputError(ImageError, OSError):
    """The result could not be written; nothing partial is left behind."""


class OutputExistsError(OutputError):
    """The result would overwrite a file and overwriting was not asked for."""


class ModelError(KBNetError):
    """A model could not be found, built or loaded."""


class UnknownModelError(ModelError, LookupError):
    """There is no model, task or preset of that name."""


class CheckpointError(ModelError):
    """A weights file is damaged, hostile, or belongs to another network."""


class DownloadError(ModelError, OSError):
    """Weights could not be fetched from a mirror or a hub, or not be put there."""


class BackendError(KBNetError, RuntimeError):
    """The operator backend asked for cannot run this call on this machine."""


class RecipeError(KBNetError, ValueError):
    """A training recipe is malformed or contradicts itself."""


class ExportError(KBNetError, RuntimeError):
    """An exported graph does not compute what the network does, and was not written."""


class TrainingError(KBNetError, RuntimeError):
    """A training run cannot go on: it diverged, or its checkpoint does not fit the recipe."""


class MissingExtraError(KBNetError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {package!r}, which is not installed; run: pip install 'kbnet[{extra}]'"
        )

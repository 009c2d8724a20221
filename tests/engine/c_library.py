"""The C interface by ctypes: its structs, the types of its functions, and calls with NumPy arrays."""

import ctypes

import numpy as np

FORMATS = {"uint8": 0, "uint16": 1, "float32": 2}


Progress = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


class Image(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("format", ctypes.c_int),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("channels", ctypes.c_int32),
        ("channel_stride", ctypes.c_ssize_t),
        ("pixel_stride", ctypes.c_ssize_t),
        ("row_stride", ctypes.c_ssize_t),
    ]


class Options(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("threads", ctypes.c_int32),
        ("tile", ctypes.c_int32),
        ("window", ctypes.c_int32),
        ("strength", ctypes.c_float),
        ("memory_limit", ctypes.c_size_t),
        ("progress", Progress),
        ("user", ctypes.c_void_p),
        ("bfloat16", ctypes.c_int32),
    ]


def declare(library):
    """Declare the types of the functions to ctypes."""
    library.kbnet_open.restype = library.kbnet_open_memory.restype = ctypes.c_void_p
    library.kbnet_open.argtypes = [ctypes.c_char_p]
    library.kbnet_open_memory.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    for function in ("free", "channels", "window", "instruction_set", "has_bfloat16"):
        getattr(library, f"kbnet_{function}").argtypes = [ctypes.c_void_p]
    library.kbnet_options_init_sized.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.kbnet_error.restype = library.kbnet_version.restype = library.kbnet_instruction_set.restype = (
        ctypes.c_char_p
    )
    library.kbnet_restore.argtypes = [ctypes.c_void_p, ctypes.POINTER(Image), ctypes.POINTER(Image), ctypes.c_void_p]
    return library


def view(array):
    height, width, channels = array.shape
    strides = array.strides[2], array.strides[1], array.strides[0]
    return Image(array.ctypes.data, FORMATS[array.dtype.name], width, height, channels, *strides)


def options(library, **changes):
    made = Options()
    library.kbnet_options_init_sized(ctypes.addressof(made), ctypes.sizeof(made))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def restore(library, model, array, result=None, **changes):
    result = np.empty_like(array) if result is None else result
    given = options(library, **changes)
    status = library.kbnet_restore(
        model, ctypes.byref(view(array)), ctypes.byref(view(result)), ctypes.addressof(given)
    )
    return status, result

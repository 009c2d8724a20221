/* kbnet: restores photographs (noise, rain, blur) with KBNet, the Kernel Basis Network (arXiv 2303.02881), on a CPU.
 *
 *     kbnet_model *model = kbnet_open("kbnet-nano-denoise.safetensors");
 *     kbnet_image image = {pixels, KBNET_UINT8, width, height, 3, 0, 0, 0};
 *     if (!model || kbnet_restore(model, &image, &image, NULL) != KBNET_OK) fprintf(stderr, "%s\n", kbnet_error());
 *     kbnet_free(model);
 *
 * No function throws, aborts, or writes to a standard stream. Models are immutable: any number of threads may restore
 * with one model at the same time, each call with its own images and options. kbnet_error() is per thread.
 */
#ifndef KBNET_H
#define KBNET_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define KBNET_API __attribute__((visibility("default")))
#else
#define KBNET_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Increases when a program built against an older header could misbehave; also the number of the shared library. */
#define KBNET_ABI_VERSION 1

typedef enum kbnet_status {
    KBNET_OK = 0,
    KBNET_ERROR_ARGUMENT = 1,   /* a null pointer, a size, a format or an option out of range */
    KBNET_ERROR_FILE = 2,       /* the weights file cannot be read, is damaged, or is of another network */
    KBNET_ERROR_MEMORY = 3,     /* out of memory, or the memory limit is too small for the smallest tile */
    KBNET_ERROR_VALUES = 4,     /* NaN or infinity in the image, or in what the network made of it */
    KBNET_ERROR_CANCELLED = 5,  /* the progress callback asked to stop */
    KBNET_ERROR_INTERNAL = 6    /* anything else: please report it */
} kbnet_status;

typedef enum kbnet_format {
    KBNET_UINT8 = 0,  /* 0 to 255; results are clipped and rounded half to even */
    KBNET_UINT16 = 1, /* 0 to 65535, in the byte order of the machine; the same */
    KBNET_FLOAT = 2   /* float32, nominally 0 to 1; values outside are processed as they are, results are not clipped */
} kbnet_format;

/* Pixels that the caller owns. Values are as in an image file (sRGB), not scene-linear. */
typedef struct kbnet_image {
    void *data;
    kbnet_format format;
    int32_t width, height;
    int32_t channels;         /* 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha; alpha is copied */
    ptrdiff_t channel_stride; /* bytes from one channel to the next; 0: the size of a value */
    ptrdiff_t pixel_stride;   /* bytes from one pixel to the next; 0: `channels` values */
    ptrdiff_t row_stride;     /* bytes from one row to the next, possibly negative; 0: `width` pixels */
} kbnet_image;

/* Called after each tile from the thread that called kbnet_restore. Returning anything but 0 cancels the call. */
typedef int (*kbnet_progress)(void *user, int64_t tiles_done, int64_t tiles_total);

/* Initialise with kbnet_options_init, then change what you need. */
typedef struct kbnet_options {
    size_t size;         /* of this struct; lets it grow in later versions */
    int32_t threads;     /* 0: as many as processors are usable */
    int32_t tile;        /* side of the tiles in pixels, 0: the largest that memory_limit allows, -1: the whole image */
    int32_t window;      /* side in pixels of the window around each pixel over which the network averages; 0: the whole
                            image; the denoising weights of kbnet are best with 128, those for rain and blur with 0 */
    float strength;      /* 1: the restored image, 0: the input, between: a blend */
    size_t memory_limit; /* bytes for the tiles and the network's activations; the scratch of each thread comes on top;
                            0: 320 MB, or no limit if `tile` is given */
    kbnet_progress progress; /* may be NULL */
    void *user;              /* passed to `progress` */
} kbnet_options;

typedef struct kbnet_model kbnet_model;

/* Version of the library, such as "0.1.0", and its KBNET_ABI_VERSION. */
KBNET_API const char *kbnet_version(void);
KBNET_API int32_t kbnet_abi_version(void);

/* What went wrong in the last failed call of this thread, one line of UTF-8; valid until its next failed call. */
KBNET_API const char *kbnet_error(void);

/* Loads a KBNet-S or KBNet-L from a .safetensors file of kbnet. NULL if it fails. Free it with kbnet_free. */
KBNET_API kbnet_model *kbnet_open(const char *path);

/* The same from memory. The bytes are copied. */
KBNET_API kbnet_model *kbnet_open_memory(const void *data, size_t size);

/* Frees a model; NULL is allowed. No call with it may be under way. */
KBNET_API void kbnet_free(kbnet_model *model);

/* Channels that the network itself has, 3 or 1. Gray images go through a colour network as equal channels; of a colour
 * image, a gray network restores the luma and keeps the chroma. 0 if the model is NULL. */
KBNET_API int32_t kbnet_channels(const kbnet_model *model);

/* The instruction set in use, such as "avx512"; NULL if the model is NULL. */
KBNET_API const char *kbnet_instruction_set(const kbnet_model *model);

/* The defaults: all threads, automatic tiles, the whole image's averages, full strength, no callback. */
KBNET_API void kbnet_options_init(kbnet_options *options);

/* Restores `input` into `output`, which has the same width, height and channels; formats and strides may differ.
 * `output` may be `input`, or the two must not overlap. `options` may be NULL. If it fails, the contents of `output`
 * are undefined, except after KBNET_ERROR_ARGUMENT, which leaves it untouched. */
KBNET_API kbnet_status kbnet_restore(const kbnet_model *model, const kbnet_image *input, const kbnet_image *output,
                                     const kbnet_options *options);

#ifdef __cplusplus
}
#endif
#endif

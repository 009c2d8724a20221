/* kbnet: restores photos (noise, rain, blur) on CPUs with KBNet, the Kernel Basis Network (arXiv 2303.02881).
 *
 *     kbnet_model *model = kbnet_open("kbnet-nano-denoise.safetensors");
 *     kbnet_image image = {pixels, KBNET_UINT8, width, height, 3, 0, 0, 0};
 *     kbnet_options options;
 *     kbnet_options_init(&options);
 *     if (!model || kbnet_restore(model, &image, &image, &options) != KBNET_OK) fprintf(stderr, "%s\n", kbnet_error());
 *     kbnet_free(model);
 *
 * No function throws, aborts or writes to a standard stream. Models are immutable: any number of threads can use the
 * same model at the same time, each with its own images and options. Each thread has its own kbnet_error().
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

/* Increases with every incompatible change of this header. The shared library's name contains it. */
#define KBNET_ABI_VERSION 1

typedef enum kbnet_status {
    KBNET_OK = 0,
    KBNET_ERROR_ARGUMENT = 1,   /* a pointer is NULL, or a size, format or option is out of range */
    KBNET_ERROR_FILE = 2,       /* the weights file can't be read, is damaged, or contains another network */
    KBNET_ERROR_MEMORY = 3,     /* out of memory, or memory_limit is too small for the smallest tile */
    KBNET_ERROR_VALUES = 4,     /* the image or the network's output contains NaN or infinity */
    KBNET_ERROR_CANCELLED = 5,  /* the progress callback returned a value other than 0 */
    KBNET_ERROR_INTERNAL = 6    /* a bug in kbnet; please report it */
} kbnet_status;

typedef enum kbnet_format {
    KBNET_UINT8 = 0,  /* 0 to 255; results are clipped and rounded half to even */
    KBNET_UINT16 = 1, /* 0 to 65535 in native byte order; results are clipped and rounded half to even */
    KBNET_FLOAT = 2   /* float32, nominally 0 to 1; neither inputs nor results are clipped */
} kbnet_format;

/* An image in the caller's memory. Values are sRGB, as in image files, not linear light. */
typedef struct kbnet_image {
    void *data;
    kbnet_format format;
    int32_t width, height;
    int32_t channels;         /* 1: gray, 2: gray and alpha, 3: RGB, 4: RGB and alpha; alpha is copied */
    ptrdiff_t channel_stride; /* bytes between channels; 0: the size of a value */
    ptrdiff_t pixel_stride;   /* bytes between pixels; 0: `channels` values */
    ptrdiff_t row_stride;     /* bytes between rows, can be negative; 0: `width` pixels */
} kbnet_image;

/* Called after each tile, in the thread that called kbnet_restore. A return value other than 0 cancels the call. */
typedef int (*kbnet_progress)(void *user, int64_t tiles_done, int64_t tiles_total);

#define KBNET_WINDOW_OF_WEIGHTS (-1)

/* Options of kbnet_restore. Initialize them with kbnet_options_init before you change any. */
typedef struct kbnet_options {
    size_t size;         /* of this struct, so that later versions can add options */
    int32_t threads;     /* 0: one per available processor */
    int32_t tile;        /* side of the tiles in pixels; 0: as large as memory_limit allows; -1: the whole image */
    int32_t window;      /* side in pixels of the window around each pixel over which the network averages; 0: the whole
                            image; KBNET_WINDOW_OF_WEIGHTS: what kbnet_window returns, which the weights work best with */
    float strength;      /* 0 = original, 1 = fully restored; values between blend */
    size_t memory_limit; /* bytes for the tiles and the network's activations, without the scratch memory of each thread;
                            0: 320 MB, or no limit if `tile` isn't 0 */
    kbnet_progress progress; /* can be NULL */
    void *user;              /* passed to `progress` */
    int32_t bfloat16;        /* 1: multiply in bfloat16 if this processor does it faster than in float32, as AMD's from
                                Zen 4 on and Intel's Xeons with AMX (untested on hardware); sums and images stay
                                float32. The included weights lose less than 0.01 dB by it on CBSD68, where no value
                                changes by more than 2 of 255. 0: float32 */
} kbnet_options;

typedef struct kbnet_model kbnet_model;

/* The version of the library, such as "0.1.0", and its KBNET_ABI_VERSION. */
KBNET_API const char *kbnet_version(void);
KBNET_API int32_t kbnet_abi_version(void);

/* The error of this thread's last failed call, as one line of UTF-8. Valid until the thread's next failed call. */
KBNET_API const char *kbnet_error(void);

/* Loads a KBNet-S or KBNet-L from a .safetensors file written by kbnet. Returns NULL on failure. Free the model with
 * kbnet_free. Files above 64 MiB are mapped instead of read: truncating such a file crashes the process. */
KBNET_API kbnet_model *kbnet_open(const char *path);

/* Loads the contents of such a file from memory. The bytes are copied. */
KBNET_API kbnet_model *kbnet_open_memory(const void *data, size_t size);

/* Frees a model that no call is using. NULL is allowed. */
KBNET_API void kbnet_free(kbnet_model *model);

/* The number of channels of the network: 3 or 1, or 0 if the model is NULL. A colour network gets gray images as three
 * equal channels; a gray network restores the luma of colour images and keeps the chroma. */
KBNET_API int32_t kbnet_channels(const kbnet_model *model);

/* The instruction set that the model uses, such as "avx512": the fastest, or the one that the environment variable
 * KBNET_INSTRUCTION_SET names. NULL if the model is NULL. */
KBNET_API const char *kbnet_instruction_set(const kbnet_model *model);

/* The window that the weights file asks for, in pixels: 0 for averages over the whole image, also if the file doesn't say
 * or the model is NULL. */
KBNET_API int32_t kbnet_window(const kbnet_model *model);

/* 1 if `bfloat16` in the options makes a difference on this processor, 0 if not. */
KBNET_API int32_t kbnet_has_bfloat16(const kbnet_model *model);

/* Sets the defaults: all processors, automatic tiles, the window of the weights, full strength, no callback, float32.
 * `size` is that of the program's struct, which can be older than the library. */
KBNET_API void kbnet_options_init_sized(kbnet_options *options, size_t size);
static inline void kbnet_options_init(kbnet_options *options) { kbnet_options_init_sized(options, sizeof *options); }

/* Restores `input` into `output`, which must have the same width, height and channels; formats and strides can differ.
 * `output` can be the same image as `input`, but must not overlap it otherwise. `options` can be NULL. After a failure,
 * the contents of `output` are undefined, except after KBNET_ERROR_ARGUMENT, which leaves it unchanged. */
KBNET_API kbnet_status kbnet_restore(const kbnet_model *model, const kbnet_image *input, const kbnet_image *output,
                                     const kbnet_options *options);

#ifdef __cplusplus
}
#endif
#endif

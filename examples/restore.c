/* Restores a binary PPM or PGM image:
 *
 *     restore WEIGHTS.safetensors IN.ppm OUT.ppm
 */
#include <kbnet.h>
#include <stdio.h>
#include <stdlib.h>

static int show(void *user, int64_t done, int64_t total) {
    (void)user;
    fprintf(stderr, "\r%d %%", (int)(100 * done / total));
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 4) return fprintf(stderr, "usage: restore WEIGHTS IN OUT\n"), 2;
    FILE *in = fopen(argv[2], "rb");
    char kind = 0;
    int width = 0, height = 0, white = 0;
    if (!in || fscanf(in, "P%c %d %d %d", &kind, &width, &height, &white) != 4 || fgetc(in) == EOF ||
        (kind != '5' && kind != '6') || white != 255 || width < 1 || height < 1 || width > 65535 || height > 65535)
        return fprintf(stderr, "%s: expected an 8-bit binary PPM or PGM image\n", argv[2]), 1;
    size_t size = (size_t)width * (size_t)height * (kind == '6' ? 3 : 1);
    unsigned char *pixels = malloc(size);
    if (!pixels || fread(pixels, 1, size, in) != size) return fprintf(stderr, "%s is truncated\n", argv[2]), 1;
    fclose(in);

    kbnet_model *model = kbnet_open(argv[1]);
    if (!model) return fprintf(stderr, "%s\n", kbnet_error()), 1;
    kbnet_image image = {pixels, KBNET_UINT8, width, height, kind == '6' ? 3 : 1, 0, 0, 0};
    kbnet_options options;
    kbnet_options_init(&options);
    options.progress = show;
    if (kbnet_restore(model, &image, &image, &options) != KBNET_OK) return fprintf(stderr, "%s\n", kbnet_error()), 1;
    kbnet_free(model);

    FILE *out = fopen(argv[3], "wb");
    if (!out) return fprintf(stderr, "can't write %s\n", argv[3]), 1;
    fprintf(out, "P%c\n%d %d\n255\n", kind, width, height);
    if (fwrite(pixels, 1, size, out) != size || fclose(out)) return fprintf(stderr, "can't write %s\n", argv[3]), 1;
    free(pixels);
    return 0;
}

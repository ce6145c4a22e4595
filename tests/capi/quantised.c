/* quantised IMAGE FLOAT: an image of ../data/quantised.onnx is used by what it says of its integers alone; FLOAT, an image of
 * digits-cnn, says of its inputs and outputs that they are no such integers. */
#include "common.h"

static int checks = 0;

static void none(const char *path) {
    static kiln_image image;
    memory file = file_read(path);
    kiln_tensor tensor;
    CHECK(kiln_image_init(&image, file.at, file.length, NULL) == KILN_OK);
    CHECK(kiln_image_input(&image, 0, 0, &tensor) == KILN_OK && tensor.scale == 0 && tensor.zero_point == 0);
    CHECK(kiln_image_output(&image, 0, 0, &tensor) == KILN_OK && tensor.scale == 0 && tensor.zero_point == 0);
    free(file.base);
}

int main(int arguments, char **argument) {
    static const float numbers[8] = {0, 0.2f, 1, 5.4f, -1, -7, 12.8f, 0.6f}; /* less than zero becomes zero */
    static kiln_image image;
    static kiln_session session;
    memory file, arena;
    kiln_program needs;
    kiln_tensor in, out;
    kiln_ops ops;
    int8_t *x;
    const uint8_t *y;
    int i;
    if (arguments != 3) return 100;
    file = file_read(argument[1]);
    CHECK(kiln_image_init(&image, file.at, file.length, NULL) == KILN_OK);
    CHECK(kiln_image_program(&image, 0, &needs) == KILN_OK);
    CHECK(kiln_image_input(&image, 0, 0, &in) == KILN_OK && kiln_image_output(&image, 0, 0, &out) == KILN_OK);
    CHECK(in.dtype == KILN_I8 && in.elements == 8 && in.scale == 0.1f && in.zero_point == -3);
    CHECK(out.dtype == KILN_U8 && out.elements == 8 && out.scale == 0.2f && out.zero_point == 5);
    arena = memory_new(needs.arena_bytes, needs.arena_alignment);
    CHECK(kiln_ops_all(&ops) == KILN_OK);
    CHECK(kiln_session_init(&session, &image, 0, &ops, arena.at, arena.length, NULL) == KILN_OK);
    x = (int8_t *)kiln_session_input(&session, 0, KILN_I8, 8);
    CHECK(x != NULL);
    for (i = 0; i < 8; i++)
        x[i] = (int8_t)((int)(numbers[i] / in.scale + (numbers[i] < 0 ? -0.5f : 0.5f)) + in.zero_point);
    CHECK(kiln_session_run(&session) == KILN_OK);
    y = (const uint8_t *)kiln_session_output(&session, 0, KILN_U8, 8);
    CHECK(y != NULL);
    for (i = 0; i < 8; i++) {
        float got = (float)(y[i] - out.zero_point) * out.scale, want = numbers[i] < 0 ? 0 : numbers[i];
        CHECK(got - want < 1e-4f && want - got < 1e-4f);
    }
    free(arena.base);
    free(file.base);
    none(argument[2]);
    printf("quantised: %d checks passed\n", checks);
    return 0;
}

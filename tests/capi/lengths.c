/* lengths IMAGE FIXED: IMAGE, ../data/lengths.kiln, has outputs whose lengths each run decides (tests/common says how); FIXED, an
 * image of digits-cnn, has none. */
#include "common.h"

static int checks = 0;
static kiln_ops ops;

static kiln_status last(const kiln_session *session) {
    kiln_error error;
    CHECK(kiln_session_error(session, &error) == KILN_OK);
    return error.status;
}

/* The sizes of an image without such outputs are those that it states. */
static void fixed(const char *path) {
    static kiln_image image;
    static kiln_session session;
    memory file = file_read(path), arena;
    kiln_program needs;
    kiln_tensor out;
    uint32_t dims[3] = {7, 7, 7};
    float *x;
    CHECK(kiln_image_init(&image, file.at, file.length, NULL) == KILN_OK);
    CHECK(kiln_image_program(&image, 0, &needs) == KILN_OK);
    CHECK(kiln_image_output(&image, 0, 0, &out) == KILN_OK && out.rank == 2 && out.bounded_axes == 0);
    arena = memory_new(needs.arena_bytes, needs.arena_alignment);
    CHECK(kiln_session_init(&session, &image, 0, &ops, arena.at, arena.length, NULL) == KILN_OK);
    x = (float *)kiln_session_input(&session, 0, KILN_F32, 784);
    CHECK(x != NULL);
    memset(x, 0, 784 * sizeof *x);
    CHECK(kiln_session_run(&session) == KILN_OK);
    CHECK(kiln_session_output_dims(&session, 0, 2, dims) == KILN_OK);
    CHECK(dims[0] == out.dims[0] && dims[1] == out.dims[1] && dims[2] == 7);
    free(arena.base);
    free(file.base);
}

/* Wrong calls return their status and write nothing. */
static void bad(kiln_session *session) {
    static kiln_session zeroed;
    uint32_t dims[3] = {7, 7, 7};
    kiln_session copy = *session;
    CHECK(kiln_session_output_dims(NULL, 0, 2, dims) == KILN_NULL);
    CHECK(kiln_session_output_dims(&zeroed, 0, 2, dims) == KILN_NOT_INITIALIZED);
    CHECK(kiln_session_output_dims(&copy, 0, 2, dims) == KILN_NOT_INITIALIZED);
    CHECK(kiln_session_output_dims((kiln_session *)((char *)session + 1), 0, 2, dims) == KILN_MISALIGNED);
    CHECK(kiln_session_output_dims(session, 0, 2, NULL) == KILN_NULL);
    CHECK(kiln_session_output_dims(session, 0, 2, (uint32_t *)((char *)dims + 1)) == KILN_MISALIGNED);
    CHECK(kiln_session_output_dims(session, 4, 1, dims) == KILN_NOT_FOUND && last(session) == KILN_NOT_FOUND);
    CHECK(kiln_session_output_dims(session, UINT32_MAX, 1, dims) == KILN_NOT_FOUND);
    CHECK(kiln_session_output_dims(session, 0, 1, dims) == KILN_WRONG_SIZE && last(session) == KILN_WRONG_SIZE);
    CHECK(kiln_session_output_dims(session, 0, 3, dims) == KILN_WRONG_SIZE);
    CHECK(kiln_session_output_dims(session, 0, UINT32_MAX, dims) == KILN_WRONG_SIZE);
    CHECK(kiln_session_output_dims(session, 0, 0, NULL) == KILN_WRONG_SIZE);
    CHECK(dims[0] == 7 && dims[1] == 7 && dims[2] == 7);
}

int main(int arguments, char **argument) {
    static const int64_t numbers[] = {0, 1, 3, 4, INT64_MAX, -1, INT64_MIN};
    static const uint32_t most[] = {0, 1, 3, 3, 3, 0, 0};
    static kiln_image image;
    static kiln_session session;
    memory file, arena;
    kiln_program needs;
    kiln_tensor tensor;
    uint32_t dims[3] = {7, 7, 7}, place, i, n;
    if (arguments != 3) return 100;
    file = file_read(argument[1]);
    CHECK(kiln_ops_all(&ops) == KILN_OK);
    CHECK(kiln_image_init(&image, file.at, file.length, NULL) == KILN_OK);
    CHECK(kiln_image_program(&image, 0, &needs) == KILN_OK && needs.inputs == 2 && needs.outputs == 4);
    CHECK(kiln_image_input(&image, 0, 0, &tensor) == KILN_OK && tensor.bounded_axes == 0);
    CHECK(kiln_image_output(&image, 0, 0, &tensor) == KILN_OK && tensor.bounded_axes == 1 && tensor.elements == 10);
    CHECK(kiln_image_output(&image, 0, 1, &tensor) == KILN_OK && tensor.bounded_axes == 3 && tensor.elements == 12);
    CHECK(kiln_image_output(&image, 0, 2, &tensor) == KILN_OK && tensor.bounded_axes == 1 && tensor.elements == 4);
    CHECK(kiln_image_output(&image, 0, 3, &tensor) == KILN_OK && tensor.bounded_axes == 0 && tensor.elements == 1);
    arena = memory_new(needs.arena_bytes, needs.arena_alignment);
    CHECK(kiln_session_init(&session, &image, 0, &ops, arena.at, arena.length, NULL) == KILN_OK);
    CHECK(kiln_session_output_dims(&session, 0, 2, dims) == KILN_INPUT_MISSING && dims[0] == 7);
    for (place = 0; place < 8; place++) {
        for (n = 0; n < sizeof numbers / sizeof *numbers; n++) {
            float *x = (float *)kiln_session_input(&session, 0, KILN_F32, 8);
            int64_t *number = (int64_t *)kiln_session_input(&session, 1, KILN_I64, 1);
            const float *a;
            CHECK(x != NULL && number != NULL);
            for (i = 0; i < 8; i++) x[i] = i == place ? 100.0f : (float)i;
            *number = numbers[n];
            CHECK(kiln_session_output_dims(&session, 0, 2, dims) == KILN_INPUT_MISSING);
            CHECK(kiln_session_run(&session) == KILN_OK);
            CHECK(kiln_session_output_dims(&session, 0, 2, dims) == KILN_OK);
            CHECK(dims[0] == (place < 5 ? place : 5) && dims[1] == 2 && dims[2] == 7);
            a = (const float *)kiln_session_output(&session, 0, KILN_F32, 10);
            CHECK(a != NULL && (dims[0] == 0 || a[0] == 0.0f));
            CHECK(kiln_session_output(&session, 0, KILN_F32, 2) == NULL && last(&session) == KILN_WRONG_SIZE);
            CHECK(kiln_session_output_dims(&session, 1, 2, dims) == KILN_OK);
            CHECK(dims[0] == most[n] && dims[1] == (place < 4 ? place : 4));
            CHECK(kiln_session_output_dims(&session, 2, 1, dims) == KILN_OK && dims[0] == 3);
            CHECK(kiln_session_output_dims(&session, 3, 1, dims) == KILN_OK && dims[0] == 1);
            dims[0] = 7;
        }
    }
    bad(&session);
    fixed(argument[2]);
    free(arena.base);
    free(file.base);
    printf("lengths: %d checks passed\n", checks);
    return 0;
}
